//! backmesh-tests.
