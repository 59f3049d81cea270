//! backmesh-codec.
