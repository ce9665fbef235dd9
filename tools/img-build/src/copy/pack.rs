//! Files as entries of a layer.
