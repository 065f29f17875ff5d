//! The ways in which the scripted provider misbehaves.

macro_rules! mischiefs {
    ($($name:ident),* $(,)?) => {
        /// A way to misbehave. The prefix says what is affected; what is not affected stays correct.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "the names say it, and `server.rs` and `sign.rs` do it")]
        pub enum Mischief {
            $($name),*
        }

        impl Mischief {
            /// Every one of them, [`Mischief::None`] first.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

mischiefs! {
    None,
    // correct, but not what most providers do
    SignsWithEs256, SignsWithoutKid, AudienceOfOneInAList, AudienceOfManyWithAzp, ClientSecretPostOnly, TokenTypeLowerCase,
    NoUserInfoEndpoint, NoRevocationEndpoint, NoEmailVerified, NamesItself, KeysAmongOthers,
    // signature
    AlgNone, AlgNoneInOtherCase, AlgMissing, AlgHs256WithPublicKeyPem, AlgHs256WithPublicKeyDer, AlgHs256WithModulus,
    AlgHs256WithClientSecret, AlgHs256Empty, AlgOfAnotherKey, HeaderJwk, HeaderJku, HeaderX5u, HeaderCrit, HeaderTyp,
    KidUnknown, KidOfAPath, KidOfANumber, SignatureBroken, SignatureMissing, SignatureOfAnotherToken, Es256Zero, Es256Der,
    // claims
    IssOther, IssWithSlash, IssMissing, IssInAList, AudOther, AudMissing, AudMany, AudPrefix, AzpOther, NonceOther,
    NonceMissing, ExpPast, ExpMissing, ExpString, ExpHuge, IatFuture, IatMissing, IatString, IatOld, NbfFuture, NbfString,
    SubMissing, SubEmpty, SubNumber, SubLong, AtHashOther, AtHashNumber, PayloadArray, PayloadTwice, PayloadString,
    // token endpoint
    TokenRedirects, TokenRedirects303, TokenRefuses, TokenFails, TokenBusy, TokenHuge, TokenHugeInChunks, TokenGzip,
    TokenGarbage, TokenHtml, TokenMac, TokenNoIdToken, TokenNoAccessToken, TokenExpiresInString, TokenTwice,
    TokenCloses, TokenSlow, TokenEmpty,
    // discovery
    DiscoveryOtherIssuer, DiscoveryIssuerWithSlash, DiscoveryKeysPlain, DiscoveryKeysMetadata, DiscoveryKeysFile,
    DiscoveryKeysPrivate, DiscoveryTokenPlain, DiscoveryUserInfoMetadata, DiscoveryRevocationMetadata, DiscoveryNoToken, DiscoveryGarbage,
    DiscoveryRedirects, DiscoveryDown, DiscoverySlow, DiscoveryStalls, DiscoveryGzip, DiscoveryHuge,
    // keys
    KeysOct, KeysWeak, KeysForEncryption, KeysGarbage, KeysEmpty, KeysDown, KeysRedirect, KeysMany, KeysTwice, KeysGzip,
    // user info
    UserInfoOther, UserInfoNoSub, UserInfoDown, UserInfoRefuses, UserInfoJwt, UserInfoArray, UserInfoRedirects,
    UserInfoHuge, UserInfoHugePage, UserInfoLarge,
    // authorization response (RFC 9207)
    ResponseIssOther, ResponseIssMissing,
    // revocation endpoint (RFC 7009): signing in is not affected
    RevocationSlow,
}

/// How the provider answers a refresh token that is presented. Refresh tokens rotate: one that is presented twice ends
/// its whole family (RFC 9700 §4.14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshing {
    /// With the next one.
    Rotates,
    /// With the next one, without an ID token.
    RotatesWithoutIdToken,
    /// With the next one, and an ID token of somebody else.
    OfAnotherPerson,
    /// With the next one, and an ID token whose signature does not hold.
    Forges,
    /// With the next one, twice on one connection.
    AnswersTwice,
    /// Not at all, but the next one was made.
    Dies,
    /// Never; nothing was made.
    Hangs,
    /// With status 503; nothing was made.
    Down,
    /// With status 429 and a wish to be left alone for so many seconds; nothing was made.
    Busy(u32),
    /// With `invalid_client`; nothing was made.
    DoesNotKnowUs,
    /// With `invalid_grant`.
    Refuses,
}
