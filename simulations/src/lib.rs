//! backmesh-simulations.
