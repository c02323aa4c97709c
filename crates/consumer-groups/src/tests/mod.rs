mod assignors;
mod classic;
mod model;
mod rules;
mod world;
