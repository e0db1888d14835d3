"""Every error this package raises, on one page.

Each error names its remedy. No message ever holds an identifier (serial number, MAC address, gateway name,
payload, coordinate): messages travel into logs.

Hierarchy::

    TelemetryError
    ├── ConfigurationError      a setting is wrong, unknown or contradicts another
    ├── KeystoreError           a key file is missing, readable by others, or wrong
    │   └── UnsealError         a sealed value does not open with the key given
    ├── StoreError              the database refused or is unreachable
    │   ├── StoreUnavailable    try again later; nothing was acknowledged
    │   ├── PlanOutdated        the plan changed while a batch was prepared; apply the new one and write again
    │   └── MigrationError      the schema and the migrations on disk do not fit together
    ├── SourceError             the broker refused or broke the protocol
    │   ├── SourceRefused       the broker said no for good: credentials, ACL, client id
    │   └── SourceUnavailable   the broker cannot be reached now
    ├── SupervisorError         an embedded server did not start, stop or stay up
    │   └── AlreadyRunning      another instance holds the same data directory
    ├── RegistryError           an owner, site, gateway or device is unknown, revoked or exists already
    ├── PlanError               a compiled plan breaks its promise: a defect, nothing of it is used
    ├── SharingError            what an owner settles cannot be settled so
    │   ├── PartyUnknown        an owner, recipient, grant or member is unknown, erased, closed or ended
    │   ├── SiteNotOwned        a grant names a site that is not (or no longer) the owner's
    │   ├── PolicyNotInForce    the policy version consented to is unknown, not yet or no longer in force
    │   ├── HistoryTooFine      a grant is finer than what the owner lets be kept, and not only live (rule 8)
    │   ├── SolarUnconfirmed    the series would tell the place better than the grant does (rule 19)
    │   ├── RequestWidened      what is about to be accepted goes beyond what was asked
    │   ├── RequestsBounded     a recipient asks more than it may; says after how many seconds to come again
    │   ├── GrantChanged        a grant has another version than the one that a change was made from
    │   └── ReceiptInvalid      a receipt was changed, or signed by another key
    ├── ViewError               what was asked for is not shown
    │   ├── NotVisible          a site or device asked for does not exist or is not shared: the same in both cases
    │   └── NoLongerAvailable   a stream or an export ends: nothing is shared any more, for whatever reason
    ├── RequestError            an HTTP request is not answered as asked; each kind has a status of its own
    │   ├── NotAuthenticated    401: who asks is unknown
    │   ├── NotPermitted        403: this route is not for this role, right or scope, whatever the object
    │   ├── NotFound            404: there is none, or none that is shared: the same in both cases
    │   ├── NotAcceptable       406: no form of the answer is accepted
    │   ├── Conflict            409: the state of things does not allow it
    │   ├── CursorExpired       410: a cursor is too old
    │   ├── RequestTooLarge     413: the body is larger than allowed
    │   ├── InvalidRequest      422: a parameter is wrong or contradicts another
    │   ├── TooCostly           422: the answer could be larger than one request may ask for
    │   └── RateLimited         429: too many requests, rows or requests at once
    ├── DeliveryError           a mail or a webhook was not delivered
    │   ├── NotConfigured       sending is off: the configuration names no server, or leaves it out
    │   ├── AddressRefused      a webhook's address is none that the service sends to
    │   ├── TargetUnknown       a webhook or a wish for mails is unknown, or somebody else's: the same in both cases
    │   ├── DeliveryRefused     the other side said no for good: do not try again
    │   └── DeliveryUnavailable the other side cannot be reached, or says to come again
    ├── AccessError             whoever asks is not let in, or not now
    │   ├── LoginRefused        address, password or second factor are wrong: which of them is not told
    │   ├── SecondFactorNeeded  the password is right, and the account wants a code as well
    │   ├── TooManyTries        tried too often; says after how many seconds to come again
    │   ├── ProofUnknown        a link or code is unknown, used or expired
    │   └── AccessBusy          too many ask at once; come again
    └── InputError              a file or an argument given on the command line cannot be used
        └── PasswordUnfit       a password is too short, too long, or among the first that are tried
"""


class TelemetryError(Exception):
    """Base of all errors. ``remedy`` says what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} ({self.remedy})" if self.remedy else message


class ConfigurationError(TelemetryError):
    """A setting is wrong, unknown or contradicts another."""


class KeystoreError(TelemetryError):
    """A key is missing, readable by others, or wrong. Everything that needs it fails closed."""


class UnsealError(KeystoreError):
    """A sealed value does not open with the key given."""


class StoreError(TelemetryError):
    """The database refused a statement."""


class StoreUnavailable(StoreError):  # noqa: N818 - a state, not a mistake
    """The database cannot be reached or lost the connection; nothing was acknowledged, try again."""


class PlanOutdated(StoreError):  # noqa: N818
    """The plan changed between applying it and writing; apply ``current`` and write again."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the plan's current version is {current}", remedy="reload the plan and apply it again")
        self.current = current


class MigrationError(StoreError):
    """The schema in the database and the migrations on disk do not fit together."""


class SourceError(TelemetryError):
    """The broker refused a request or broke the protocol."""


class SourceRefused(SourceError):  # noqa: N818
    """The broker said no for good: credentials, access control or client id."""


class SourceUnavailable(SourceError):  # noqa: N818
    """The broker cannot be reached now."""


class SupervisorError(TelemetryError):
    """An embedded server did not start, stop or stay up."""


class AlreadyRunning(SupervisorError):  # noqa: N818
    """Another instance holds the same data directory."""


class RegistryError(TelemetryError):
    """An owner, site, gateway or device is unknown, revoked or exists already."""


class PlanError(TelemetryError):
    """A compiled plan breaks the promise it was checked against. It is not used; the one before stays."""


class InputError(TelemetryError):
    """A file or an argument given on the command line cannot be used."""


class SharingError(TelemetryError):
    """What an owner settles cannot be settled so; nothing was changed."""


class PartyUnknown(SharingError):  # noqa: N818 - a state, not a mistake
    """An owner, recipient, grant or member is unknown, erased, closed or ended."""


class SiteNotOwned(SharingError):  # noqa: N818
    """A grant names a site that is not, or no longer, the owner's."""


class PolicyNotInForce(SharingError):  # noqa: N818
    """The policy version consented to is unknown, not yet or no longer in force."""


class HistoryTooFine(SharingError):  # noqa: N818
    """A grant is finer than what the owner lets be kept, and reaches back further than readings stay whole."""


class SolarUnconfirmed(SharingError):  # noqa: N818
    """A production series would tell the place within ``error_km``, better than the place granted (rule 19)."""

    def __init__(self, message: str, *, error_km: float) -> None:
        super().__init__(
            message, remedy=f"coarsen the grant, or confirm {error_km:g} km (--confirm-solar {error_km:g})"
        )
        self.error_km = error_km


class RequestWidened(SharingError):  # noqa: N818
    """What an owner is about to accept goes beyond what was asked. Only a grant of its own may do more."""

    def __init__(self, message: str) -> None:
        super().__init__(message, remedy="accept as much or less, or make a grant of your own")


class RequestsBounded(SharingError):  # noqa: N818 - a state, not a mistake
    """A recipient asks more than it may. Counted over its own requests, whatever became of them."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, remedy=f"try again in {max(1, round(retry_after_s))} s")
        self.retry_after_s = retry_after_s


class GrantChanged(SharingError):  # noqa: N818
    """A grant has another version than the one that a change was made from; nothing was changed."""

    def __init__(self, current: int) -> None:
        super().__init__(f"the grant's version is {current} by now", remedy="read it again, then change it")
        self.current = current


class ReceiptInvalid(SharingError):  # noqa: N818
    """A receipt was changed, is no receipt, or was signed by another key."""


class ViewError(TelemetryError):
    """What a recipient asked for is not shown."""


class NotVisible(ViewError):  # noqa: N818 - a state, not a mistake
    """A site or device that was asked for does not exist, or is not shared. Which of both is not told (rule 22)."""

    def __init__(self) -> None:
        super().__init__("there is no such site or device", remedy="ask without it, and take the names given there")


class NoLongerAvailable(ViewError):  # noqa: N818
    """A stream or an export ends because nothing is shared any more. It does not tell why."""

    def __init__(self) -> None:
        super().__init__("no longer available")


class RequestError(TelemetryError):
    """An HTTP request is not answered as asked."""


class NotAuthenticated(RequestError):  # noqa: N818 - a state, not a mistake
    """Who asks is unknown: no token or session, or one that is wrong, expired or revoked. Which is not told."""

    def __init__(self) -> None:
        super().__init__("who asks is not known", remedy="send a valid token, or sign in")


class NotPermitted(RequestError):  # noqa: N818
    """A route is not for this role, right, scope or origin. It depends on the route alone, never on an object."""

    def __init__(self, message: str = "this is not for whoever asks", *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy or "ask with an account or token that may use this route")


class NotFound(RequestError):  # noqa: N818
    """There is no such thing, or none that is shared. Which of both is not told."""

    def __init__(self) -> None:
        super().__init__("there is nothing here", remedy="take the names that lists give")


class NotAcceptable(RequestError):  # noqa: N818
    """None of the media types that are accepted can be given."""


class Conflict(RequestError):  # noqa: N818
    """The state of things does not allow it."""


class CursorExpired(RequestError):  # noqa: N818
    """A cursor is older than it is honoured for."""

    def __init__(self) -> None:
        super().__init__("this cursor has expired", remedy="begin anew without it")


class RequestTooLarge(RequestError):  # noqa: N818
    """The request's body is larger than allowed."""


class InvalidRequest(RequestError):  # noqa: N818
    """A parameter is wrong. ``where``: its name; what was given is not repeated."""

    def __init__(self, message: str, *, where: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.where = where


class TooCostly(RequestError):  # noqa: N818
    """The answer could have more rows than one request may ask for."""


class RateLimited(RequestError):  # noqa: N818
    """Too many requests, rows or requests at once. ``retry_after_s``: when one is answered again. ``headers``: what
    the answer says of the limits.
    """

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message, remedy="wait as long as Retry-After says")
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}


class DeliveryError(TelemetryError):
    """A mail or a webhook was not delivered. Never holds an address, nor what the other side said."""


class NotConfigured(DeliveryError):  # noqa: N818 - a state, not a mistake
    """Sending is off: the configuration names no server."""


class AddressRefused(DeliveryError):  # noqa: N818
    """A webhook's address is none that the service sends to. It is not repeated."""


class TargetUnknown(DeliveryError):  # noqa: N818
    """A webhook or a wish for mails is unknown, or somebody else's. Which of both is not told."""

    def __init__(self) -> None:
        super().__init__("there is no such target", remedy="list them, and take one of those")


class DeliveryRefused(DeliveryError):  # noqa: N818
    """The other side said no for good; trying again changes nothing."""


class DeliveryUnavailable(DeliveryError):  # noqa: N818
    """The other side cannot be reached now, or says to come again later."""


class PasswordUnfit(InputError):  # noqa: N818 - a state, not a mistake
    """A password is too short, too long, the address itself, or among the first that anybody tries."""


class AccessError(TelemetryError):
    """Whoever asks is not let in, or not now. Nothing here tells whether an account exists."""


class LoginRefused(AccessError):  # noqa: N818
    """Address, password or second factor are wrong. Which of them is not told."""

    def __init__(self) -> None:
        super().__init__("address, password or code are wrong", remedy="try again, or ask for a new password by mail")


class SecondFactorNeeded(AccessError):  # noqa: N818
    """The password is right, and the account wants a code as well."""

    def __init__(self) -> None:
        super().__init__("a code is needed", remedy="give the six digits of the authenticator, or a recovery code")


class TooManyTries(AccessError):  # noqa: N818
    """Tried too often: the next try counts after ``retry_after_s`` seconds. Trying earlier changes nothing."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("tried too often", remedy=f"come again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class ProofUnknown(AccessError):  # noqa: N818
    """A link or code is unknown, used or expired. Which of them is not told."""

    def __init__(self) -> None:
        super().__init__("this link or code is unknown, used or expired", remedy="ask for a new one")


class AccessBusy(AccessError):  # noqa: N818
    """Too many ask at once."""

    def __init__(self) -> None:
        super().__init__("too many ask at once", remedy="come again in some seconds")
