//! Who this machine is: its TEE, identity, derived secrets and files.
