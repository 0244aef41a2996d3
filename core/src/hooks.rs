//! Where a simulation looks in: coverage marks and planted mistakes.
//!
//! Without the feature `simulation` both macros leave nothing behind, not even a name: what
//! ships holds no mistake that could be switched on.

/// Count that this place was reached. The mark must be one of `simulation::MARKS`; another
/// does not compile.
#[cfg(feature = "simulation")]
macro_rules! mark {
    ($name:literal) => {{
        const INDEX: usize = $crate::simulation::index_of($name);
        $crate::simulation::hit(INDEX);
    }};
}

/// Nothing: nobody counts.
#[cfg(not(feature = "simulation"))]
macro_rules! mark {
    ($name:literal) => {{}};
}

/// Whether this mistake is planted on this thread; with a number n, every n-th time only.
#[cfg(feature = "simulation")]
macro_rules! planted {
    ($mutant:ident) => {
        $crate::simulation::is_planted($crate::simulation::Mutant::$mutant)
    };
    ($mutant:ident, $every:literal) => {
        $crate::simulation::is_due($crate::simulation::Mutant::$mutant, $every)
    };
}

/// No mistake is ever planted.
#[cfg(not(feature = "simulation"))]
macro_rules! planted {
    ($mutant:ident) => {
        false
    };
    ($mutant:ident, $every:literal) => {
        false
    };
}
