//! The Kafka protocol front door
