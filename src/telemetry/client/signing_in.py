"""Accounts of people: signing up, logging in and out, each call as a plan (``wire``)."""

from dataclasses import dataclass, field

from telemetry.client.wire import Plan, Request


@dataclass(frozen=True, slots=True)
class _Session:
    csrf: str = field(repr=False)


def sign_up(email: str, *, of_age: bool, name: str = "", code: str | None = None) -> Plan[None]:
    """Ask for an account. The address is sent a code; the answer is the same whether it is known or not.

    ``of_age``: whoever signs up states to be 18 or older. ``code``: from whoever runs the service, for somebody who is
    registered already; without one, a new owner of this ``name``.
    """
    told = {"email": email, "of_age": of_age, "name": name, "code": code}
    body = {key: value for key, value in told.items() if value not in {None, ""}}
    yield Request("POST", "/auth/sign-up", body=body)


def verify(code: str, password: str) -> Plan[None]:
    """Make the account: ``code`` is what the mail said."""
    yield Request("POST", "/auth/verify", body={"code": code, "password": password})


def login(email: str, password: str, code: str | None = None) -> Plan[str]:
    """Begin a session. ``code``: of the authenticator, where the account has one. Gives the session's CSRF token."""
    body = {"email": email, "password": password} | ({} if code is None else {"code": code})
    return (yield Request("POST", "/auth/login", body=body)).as_(_Session).csrf


def logout() -> Plan[None]:
    """End the session."""
    yield Request("POST", "/auth/logout")
