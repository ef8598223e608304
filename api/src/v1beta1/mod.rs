//! The wire form of 2014, converted at the edge.
