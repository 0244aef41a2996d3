//! What every implementation of a trait must do, checked against all of them.
