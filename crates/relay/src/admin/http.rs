//! The admin's side of HTTP: who may ask, and what answers look like.

use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

/// Whether a request is this host's own, and of no page.
pub(super) fn is_local(request: &Request<Incoming>) -> Result<(), &'static str> {
    if request.headers().contains_key(ORIGIN) {
        return Err("pages have no business here");
    }
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    match is_loopback(host) {
        true => Ok(()),
        false => Err("ask by an address of this host: 127.0.0.1, [::1] or localhost"),
    }
}

/// Whether a `Host` names this host; a name that leads here for a while does not.
fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

pub(super) fn text(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn json_of(status: StatusCode, value: &Value) -> Response<String> {
    let mut response = text(status, format!("{value}\n"));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

pub(super) fn error(status: StatusCode, why: &str) -> Response<String> {
    json_of(status, &json!({"error": why}))
}

pub(super) fn busy() -> Response<String> {
    let why = "other orders are being carried out; ask again";
    error(StatusCode::SERVICE_UNAVAILABLE, why)
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_this_host_are_its_own() {
        for own in [
            "127.0.0.1:9090",
            "localhost",
            "LOCALHOST:1",
            "[::1]:9",
            "127.9.9.9",
        ] {
            assert!(is_loopback(own), "{own}");
        }
        for other in [
            "",
            "evil.example:9090",
            "10.0.0.1",
            "127.0.0.1.evil.example",
            "[::2]:1",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }
}
