//! backmesh-store.
