//! How the function presents itself.

/// Link layer of the function's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortType {
    /// InfiniBand: the port is active with LID 1, no network device.
    #[default]
    InfiniBand,
    /// Ethernet without RoCE: memory registration works, the RDMA port stays down.
    Ethernet,
}

/// Configuration of an [`Mlx5`](super::Mlx5) function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mlx5Config {
    pub port: PortType,
}
