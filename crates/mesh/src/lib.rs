//! backmesh-mesh.
