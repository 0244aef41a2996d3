//! Disasters, and the tests that replay them: scenario files in all their worlds (`tests/worlds`),
//! and what needs the kernel of this machine and the program as it ships (`tests/kernel`).
