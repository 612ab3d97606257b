//! How the function presents itself: the keys of `--device mlx5,key=value`.

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

/// Why a key of `--device mlx5,…` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("device mlx5 has no key '{0}' (known keys: port)")]
    UnknownKey(String),
    #[error("device mlx5: '{value}' is no value for '{key}' (valid values: {valid})")]
    BadValue { key: &'static str, value: String, valid: &'static str },
}

impl Mlx5Config {
    /// Sets one key to the value given on the command line.
    ///
    /// # Errors
    /// [`ConfigError`] if the device has no such key or the value is not one of the key's.
    pub fn parse_key(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        match key {
            "port" => self.port = parse_port(value)?,
            _ => return Err(ConfigError::UnknownKey(key.to_owned())),
        }
        Ok(())
    }
}

fn parse_port(value: &str) -> Result<PortType, ConfigError> {
    match value {
        "ib" => Ok(PortType::InfiniBand),
        "eth" => Ok(PortType::Ethernet),
        _ => Err(ConfigError::BadValue { key: "port", value: value.to_owned(), valid: "ib, eth" }),
    }
}

#[cfg(test)]
mod tests {
    use super::{Mlx5Config, PortType};

    #[test]
    fn keys_are_parsed_or_named_in_the_error() {
        let mut config = Mlx5Config::default();
        assert_eq!(config.port, PortType::InfiniBand);
        config.parse_key("port", "eth").unwrap();
        assert_eq!(config.port, PortType::Ethernet);
        let unknown = config.parse_key("speed", "1").unwrap_err().to_string();
        assert!(unknown.contains("'speed'") && unknown.contains("port"), "{unknown}");
        let bad = config.parse_key("port", "fc").unwrap_err().to_string();
        assert!(bad.contains("'fc'") && bad.contains("ib, eth"), "{bad}");
        assert_eq!(config.port, PortType::Ethernet, "a refused value changes nothing");
    }
}
