//! authenticate: the relying party. Signs people in at their provider and knows who is calling.

mod caller;

pub use caller::Caller;
