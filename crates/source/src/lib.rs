//! backmesh-source.
