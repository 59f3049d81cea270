//! backmesh-net.
