//! The emulated ConnectX function.
