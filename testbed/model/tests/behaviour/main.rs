//! How the model behaves, driven through registers and descriptors as a driver would.

mod data_path;
mod device;
mod driver;
mod fuzz;
