pub(crate) mod leaders;
