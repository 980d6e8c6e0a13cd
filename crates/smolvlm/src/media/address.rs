//! Which addresses a URL may reach.
//!
//! A name is resolved, every address it has is checked, and the connection goes to what was checked: a name cannot change
//! its meaning in between, and each redirect is resolved and checked anew. However an address is spelled, it is judged by
//! what it resolves to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// A name that has an address inside this machine or its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotPublic {
    host: String,
    address: IpAddr,
}

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address } = self;
        write!(
            f,
            "{host} is {address}, an address of this machine or of a private network, which URLs may not reach; allow it \
             with --allow-private-urls (in the library: MediaLimits::allow_private_addresses) if you trust who wrote the \
             URL"
        )
    }
}

impl std::error::Error for NotPublic {}

/// Resolves names as usual, and refuses those with any address that is not public.
#[derive(Debug, Default)]
pub(super) struct PublicOnly;

impl Resolver for PublicOnly {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        let checked = check(uri.host().unwrap_or_default(), found.iter().map(SocketAddr::ip));
        checked.map_err(|refused| ureq::Error::Other(Box::new(refused)))?;
        Ok(found)
    }
}

/// Refuses a name if any of its addresses is not public: which of them is connected to is not for the name to choose.
fn check(host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), NotPublic> {
    match addresses.into_iter().find(|&address| !is_public(address)) {
        None => Ok(()),
        Some(address) => Err(NotPublic { host: host.to_owned(), address }),
    }
}

/// Whether an address is on the public internet: not this machine's, its networks', or one kept for other purposes
/// (IANA's registries of special-purpose addresses).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match a {
        0 | 10 | 127 | 224..=255 => true,
        100 => (64..128).contains(&b),
        169 => b == 254,
        172 => (16..32).contains(&b),
        // Protocol assignments, documentation, former relays of 6to4, private, transition tests.
        192 => b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99) || (b == 52 && c == 193),
        198 => (18..20).contains(&b) || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    };
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let low = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        // Mapped and translated IPv4 addresses, and 6to4, are as public as the address inside.
        [0, 0, 0, 0, 0, 0xFFFF, a, b] | [0, 0, 0, 0, 0xFFFF, 0, a, b] | [0x64, 0xFF9B, 0, 0, 0, 0, a, b] => low(a, b),
        [0x2002, a, b, ..] => low(a, b),
        // Teredo, benchmarks, documentation, identifiers; everything outside 2000::/3 is special.
        [0x2001, 0..0x200, ..] | [0x2001, 0xDB8, ..] | [0x3FFF, 0..0x1000, ..] => false,
        [first, ..] => first & 0xE000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_and_of_private_networks_are_not_public() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.9.9",
            "192.168.1.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:192.168.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "2001::1",
            "2001:db8::1",
            "100::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "3fff:1::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_name_with_one_address_inside_is_refused_whatever_the_others_are() {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(check("good.test", addresses(&["1.1.1.1", "2606:4700::1111"])), Ok(()));
        for inside in ["10.0.0.1", "::1", "169.254.169.254", "64:ff9b::a00:1"] {
            for order in [["1.1.1.1", inside], [inside, "1.1.1.1"]] {
                let refused = check("evil.test", addresses(&order)).unwrap_err();
                assert_eq!((refused.host.as_str(), refused.address), ("evil.test", inside.parse().unwrap()));
            }
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.1.1.1",
            "2606:4700::1111",
            "2a00:1450:4001::200e",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
