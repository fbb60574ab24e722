//! What programs say to the SOCKS5 port.

use farpipe_net::HostPort;
use farpipe_net::fuzz::{Pieces, finished};

use super::socks;

/// The first byte is the length of a piece; then come greeting and request. What is behind them is the far
/// program's, to the byte; an address is one that can be written.
pub fn socks_server(data: &[u8]) {
    let Some((size, wire)) = data.split_first() else {
        return;
    };
    let ask = |size| {
        let mut program = Pieces::new(wire, size);
        let asked = finished(socks::ask(&mut program));
        let asked = asked.map_err(|error| error.to_string());
        (asked, program.taken(), program.written)
    };
    let whole = ask(wire.len());
    let size = usize::from(*size) + 1;
    let cut = ask(size);
    assert_eq!(
        (&whole.0, &whole.2),
        (&cut.0, &cut.2),
        "in pieces of {size}"
    );
    let (Ok(to), taken, written) = whole else {
        return;
    };
    assert_eq!((taken, &written[..]), (cut.1, &[5, 0][..]));
    assert_eq!(to.to_string().parse::<HostPort>().as_ref(), Ok(&to));
    assert!(to.port > 0 && to.host.is_ascii());
    let greeting = 2 + usize::from(wire[1]);
    let address_len = match wire[greeting + 3] {
        1 => 4,
        4 => 16,
        _ => 1 + usize::from(wire[greeting + 4]),
    };
    assert_eq!(taken, greeting + 4 + address_len + 2);
}
