//! Why a request is not looked at any further: fixed texts, nothing of the request itself.

use http::StatusCode;

/// What is wrong with a request, so that no canonical value can be made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Neither HTTP/1.0, HTTP/1.1 nor HTTP/2.
    #[error("the version of HTTP is not supported")]
    Version,
    /// `CONNECT` or `TRACE`.
    #[error("the method is not supported")]
    Method,
    /// Not in origin form or absolute form, or with bytes that no target has (RFC 9112 §3.2).
    #[error("the request target is malformed")]
    Target,
    /// `*` with a method other than `OPTIONS` (RFC 9112 §3.2.4).
    #[error("the request target is for the method OPTIONS alone")]
    Asterisk,
    /// Longer than `TARGET_BYTES`, or than `SIGN_IN_TARGET_BYTES` at the sign-in page.
    #[error("the request target is too long")]
    TargetTooLong,
    /// `%` without two hex digits (RFC 3986 §2.1).
    #[error("the path is badly percent-encoded")]
    PercentEncoding,
    /// `%2f`, as with `path_with_escaped_slashes_action: reject_request`.
    #[error("the path has an escaped slash")]
    EscapedSlash,
    /// A scheme other than `http` and `https`.
    #[error("the scheme is not supported")]
    Scheme,
    /// No `Host` and no `:authority` (RFC 9112 §3.2).
    #[error("the host is missing")]
    NoHost,
    /// More than one `Host`.
    #[error("there is more than one host")]
    ManyHosts,
    /// Not `host[:port]`, or a host that is neither a name in ASCII nor an address.
    #[error("the host is malformed")]
    Host,
    /// `Host` says another thing than the target or `:authority`.
    #[error("the host and the request target disagree")]
    HostMismatch,
    /// More header lines than `REQUEST_HEADERS`.
    #[error("there are too many headers")]
    TooManyHeaders,
    /// More bytes than `REQUEST_HEAD_BYTES`.
    #[error("the headers are too large")]
    HeadersTooLarge,
    /// `_` in a header name, as with `headers_with_underscores_action: reject_request`.
    #[error("a header name has an underscore")]
    HeaderName,
    /// Control bytes in a header value, or white space around it in HTTP/2 (RFC 9113 §8.2.1).
    #[error("a header value has bytes that it must not have")]
    HeaderValue,
    /// `X-Forwarded-For` of a trusted proxy holds no address where the client's must stand.
    #[error("the forwarded address is none")]
    ForwardedFor,
    /// More than one, or not a number (RFC 9112 §6.3).
    #[error("the content length is malformed")]
    ContentLength,
    /// Anything but one `chunked`, or beside a content length (RFC 9112 §6.1).
    #[error("the transfer encoding is not acceptable")]
    TransferEncoding,
    /// A header of the connection in HTTP/2 (RFC 9113 §8.2.2).
    #[error("a header belongs to another version of HTTP")]
    ConnectionHeader,
    /// `Connection` is no list of names.
    #[error("the connection header is malformed")]
    Connection,
    /// `Connection` names a header that is not the connection's (RFC 9110 §7.6.1).
    #[error("the connection header names what is not the connection's")]
    Nominated,
}

impl BadRequest {
    /// The status that says so.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Method => StatusCode::NOT_IMPLEMENTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooManyHeaders | Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Target
            | Self::Asterisk
            | Self::PercentEncoding
            | Self::EscapedSlash
            | Self::Scheme
            | Self::NoHost
            | Self::ManyHosts
            | Self::Host
            | Self::HostMismatch
            | Self::HeaderName
            | Self::HeaderValue
            | Self::ForwardedFor
            | Self::ContentLength
            | Self::TransferEncoding
            | Self::ConnectionHeader
            | Self::Connection
            | Self::Nominated => StatusCode::BAD_REQUEST,
        }
    }
}
