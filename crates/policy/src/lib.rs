//! backmesh-policy.
