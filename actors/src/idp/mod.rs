//! The client of an OpenID provider.
