//! backmesh-control.
