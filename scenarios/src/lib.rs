//! Disasters, and the tests that replay them: today on the kernel of this machine, with the
//! program as it is shipped (`tests/kernel`).
