//! What a policy says of a request, with its reasons, and what follows from it.

use http::StatusCode;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($variant:ident = $bit:literal $name:literal,)*) => {
        /// Why a criterion was true or false: the names of the policy language, in their alphabetical order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "the names are the language's own")]
        pub enum Reason {
            $($variant,)*
        }

        impl Reason {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            const fn bit(self) -> u32 {
                match self {
                    $(Self::$variant => 1 << $bit,)*
                }
            }

            /// The name in logs and in answers.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    Accept = 0 "accept",
    ClaimOk = 1 "claim-ok",
    ClaimUnauthorized = 2 "claim-unauthorized",
    CorsRequest = 3 "cors-request",
    DomainOk = 4 "domain-ok",
    DomainUnauthorized = 5 "domain-unauthorized",
    EmailOk = 6 "email-ok",
    EmailUnauthorized = 7 "email-unauthorized",
    GroupsOk = 8 "groups-ok",
    GroupsUnauthorized = 9 "groups-unauthorized",
    HttpMethodOk = 10 "http-method-ok",
    HttpMethodUnauthorized = 11 "http-method-unauthorized",
    HttpPathOk = 12 "http-path-ok",
    HttpPathUnauthorized = 13 "http-path-unauthorized",
    NonCorsRequest = 14 "non-cors-request",
    NonPomeriumRoute = 15 "non-pomerium-route",
    PomeriumRoute = 16 "pomerium-route",
    Reject = 17 "reject",
    RouteNotFound = 18 "route-not-found",
    SourceIpOk = 19 "source-ip-ok",
    SourceIpUnauthorized = 20 "source-ip-unauthorized",
    UserOk = 21 "user-ok",
    UserUnauthenticated = 22 "user-unauthenticated",
    UserUnauthorized = 23 "user-unauthorized",
}

/// A set of reasons.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reasons(u32);

impl Reasons {
    /// The set without a member.
    pub const NONE: Self = Self(0);

    /// The set of one.
    #[must_use]
    pub const fn of(reason: Reason) -> Self {
        Self(reason.bit())
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether a reason is in it.
    #[must_use]
    pub const fn contains(self, reason: Reason) -> bool {
        self.0 & reason.bit() != 0
    }

    /// The names, in alphabetical order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Reason::ALL.iter().filter(move |reason| self.contains(**reason)).map(|reason| reason.name())
    }
}

impl std::fmt::Debug for Reasons {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// True or false, and why: the result of a criterion, of an operator, and of one side of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) holds: bool,
    pub(super) reasons: Reasons,
}

impl Verdict {
    /// One reason for either outcome.
    pub(super) const fn of(holds: bool, ok: Reason, failed: Reason) -> Self {
        Self { holds, reasons: Reasons::of(if holds { ok } else { failed }) }
    }

    /// The other outcome for the same reasons (`not`, `nor`).
    pub(super) const fn flipped(self) -> Self {
        Self { holds: !self.holds, reasons: self.reasons }
    }

    /// True if all are, for the reasons of all; else false, for the reasons of the false ones alone.
    pub(super) fn all(verdicts: impl Iterator<Item = Self>) -> Self {
        // the same as "any is false", seen from the other side
        Self::any(verdicts.map(Self::flipped)).flipped()
    }

    /// True if any is, for the reasons of the true ones alone; else false, for the reasons of all.
    pub(super) fn any(verdicts: impl Iterator<Item = Self>) -> Self {
        let mut of_true = Self { holds: false, reasons: Reasons::NONE };
        let mut of_all = Reasons::NONE;
        for verdict in verdicts {
            of_all = of_all.union(verdict.reasons);
            if verdict.holds {
                of_true = Self { holds: true, reasons: of_true.reasons.union(verdict.reasons) };
            }
        }
        if of_true.holds { of_true } else { Self { holds: false, reasons: of_all } }
    }
}

/// What the policy of a route says of a request: both sides, each with its reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    allow: Verdict,
    deny: Verdict,
}

impl Decision {
    /// There is no such route, so there is nothing that could allow.
    pub(super) const NO_ROUTE: Self = Self {
        allow: Verdict { holds: false, reasons: Reasons::NONE },
        deny: Verdict { holds: true, reasons: Reasons::of(Reason::RouteNotFound) },
    };

    pub(super) const fn new(allow: Verdict, deny: Verdict) -> Self {
        Self { allow, deny }
    }

    /// Whether an allow is true. This alone lets nobody in: see [`Self::outcome`].
    #[must_use]
    pub const fn allow(&self) -> bool {
        self.allow.holds
    }

    /// Whether a deny is true.
    #[must_use]
    pub const fn deny(&self) -> bool {
        self.deny.holds
    }

    /// Why [`Self::allow`] is what it is.
    #[must_use]
    pub const fn allow_reasons(&self) -> Reasons {
        self.allow.reasons
    }

    /// Why [`Self::deny`] is what it is.
    #[must_use]
    pub const fn deny_reasons(&self) -> Reasons {
        self.deny.reasons
    }

    /// Why somebody who is known is refused: what denies, else what does not allow.
    #[must_use]
    pub const fn unmet(&self) -> Reasons {
        if self.deny.holds { self.deny.reasons } else { self.allow.reasons }
    }

    /// What follows. That somebody has to sign in comes before both sides: `not` turns the missing person into a true
    /// allow, and only this order keeps that from opening the route.
    ///
    /// # Errors
    /// [`RefusalKind`].
    pub const fn outcome(&self) -> Result<(), RefusalKind> {
        if self.allow.reasons.union(self.deny.reasons).contains(Reason::UserUnauthenticated) {
            return Err(RefusalKind::SignIn);
        }
        if self.deny.holds {
            return Err(RefusalKind::of(self.deny.reasons));
        }
        if self.allow.holds { Ok(()) } else { Err(RefusalKind::of(self.allow.reasons)) }
    }
}

/// How a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// Somebody has to sign in first: a browser is led there, everyone else gets the status.
    SignIn,
    /// Not this person, or not this request.
    Denied,
    /// There is no such route.
    NotFound,
}

impl RefusalKind {
    const fn of(reasons: Reasons) -> Self {
        if reasons.contains(Reason::RouteNotFound) { Self::NotFound } else { Self::Denied }
    }

    /// The status that says so.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::SignIn => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_bit_and_a_name_of_its_own_in_alphabetical_order() {
        let all = Reason::ALL.iter().fold(Reasons::NONE, |all, reason| all.union(Reasons::of(*reason)));
        let names: Vec<_> = all.names().collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(usize::try_from(all.0.count_ones()).unwrap(), names.len());
    }

    const YES: Verdict = Verdict { holds: true, reasons: Reasons::of(Reason::EmailOk) };
    const ALSO: Verdict = Verdict { holds: true, reasons: Reasons::of(Reason::GroupsOk) };
    const NO: Verdict = Verdict { holds: false, reasons: Reasons::of(Reason::ClaimUnauthorized) };
    const NEITHER: Verdict = Verdict { holds: false, reasons: Reasons::of(Reason::HttpPathUnauthorized) };

    fn shown(verdict: Verdict) -> (bool, Vec<&'static str>) {
        (verdict.holds, verdict.reasons.names().collect())
    }

    #[test]
    fn and_keeps_the_reasons_of_all_when_true_and_of_the_false_ones_when_false() {
        assert_eq!(shown(Verdict::all([YES, ALSO].into_iter())), (true, vec!["email-ok", "groups-ok"]));
        let both = vec!["claim-unauthorized", "http-path-unauthorized"];
        assert_eq!(shown(Verdict::all([YES, NO, NEITHER].into_iter())), (false, both));
    }

    #[test]
    fn or_keeps_the_reasons_of_the_true_ones_when_true_and_of_all_when_false() {
        assert_eq!(shown(Verdict::any([NO, YES, ALSO].into_iter())), (true, vec!["email-ok", "groups-ok"]));
        let both = vec!["claim-unauthorized", "http-path-unauthorized"];
        assert_eq!(shown(Verdict::any([NO, NEITHER].into_iter())), (false, both));
    }

    #[test]
    fn a_missing_person_is_sent_to_sign_in_before_either_side_is_looked_at() {
        let open = Verdict { holds: true, reasons: Reasons::of(Reason::UserUnauthenticated) };
        let shut = Verdict { holds: true, reasons: Reasons::of(Reason::Reject) };
        assert_eq!(Decision::new(open, NO).outcome(), Err(RefusalKind::SignIn));
        assert_eq!(Decision::new(open, shut).outcome(), Err(RefusalKind::SignIn));
        assert_eq!(Decision::new(YES, open.flipped()).outcome(), Err(RefusalKind::SignIn));
    }

    #[test]
    fn a_deny_beats_every_allow_and_no_allow_is_a_denial() {
        assert_eq!(Decision::new(YES, ALSO).outcome(), Err(RefusalKind::Denied));
        assert_eq!(Decision::new(YES, NO).outcome(), Ok(()));
        assert_eq!(Decision::new(NO, NEITHER).outcome(), Err(RefusalKind::Denied));
        assert_eq!(Decision::NO_ROUTE.outcome(), Err(RefusalKind::NotFound));
    }

    #[test]
    fn every_refusal_has_its_status() {
        let statuses = [RefusalKind::SignIn, RefusalKind::Denied, RefusalKind::NotFound].map(RefusalKind::status);
        assert_eq!(statuses.map(|status| status.as_u16()), [401, 403, 404]);
    }
}
