//! Segmented partition log of Kafka record batches
