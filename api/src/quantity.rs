//! Quantities: `500m`, `1.5`, `64Mi`, `1e3`.
