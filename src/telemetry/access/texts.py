"""What is written to people. No mail says more than its receiver knows already, nor who asked from where."""

from typing import Final

from telemetry.deliver.mail import Mail

_IGNORE: Final = "If it was not you, nothing has to be done: without this code nothing happens.\n"


def verify_mail(to: str, secret: str, link_base: str) -> Mail:
    """To an address that somebody signed up with."""
    text = (
        "Somebody, probably you, wants an account here under this address.\n\n"
        f"{_way('Choose a password', 'sign-up', secret, link_base)}"
        "The code counts for 24 hours. By choosing a password you confirm that you are 18 or older.\n\n" + _IGNORE
    )
    return Mail(to, "Confirm your address", text)


def known_mail(to: str, link_base: str) -> Mail:
    """To an address that has an account, when somebody signs up with it."""
    link = f"{link_base}/forgot\n\n" if link_base else ""
    text = (
        "Somebody, probably you, wanted an account here under this address. There is one already.\n\n"
        f"If you do not know its password any more, ask for a new one.\n\n{link}"
        "If it was not you, nothing has to be done.\n"
    )
    return Mail(to, "You have an account already", text)


def reset_mail(to: str, secret: str, link_base: str) -> Mail:
    """To who asked for a new password."""
    text = (
        "Somebody, probably you, asked for a new password for the account under this address.\n\n"
        f"{_way('Choose it', 'reset', secret, link_base)}"
        "The code counts for one hour, and once. All sessions end then.\n\n" + _IGNORE
    )
    return Mail(to, "Choose a new password", text)


def password_changed_mail(to: str) -> Mail:
    """To whose password was changed."""
    return Mail(
        to,
        "Your password was changed",
        "The password of your account was changed, and other sessions were ended.\n\n"
        "If it was not you, ask for a new password at once: that ends every session.\n",
    )


def second_factor_mail(to: str, *, on: bool) -> Mail:
    """To who switched the second factor on or off."""
    state = "on" if on else "off"
    return Mail(
        to,
        f"Your second factor was switched {state}",
        f"The second factor of your account was switched {state}.\n\n"
        "If it was not you, ask for a new password at once: that ends every session.\n",
    )


def invitation_mail(to: str, handle: str, secret: str, link_base: str) -> Mail:
    """To whom a recipient invites. The address is used for this mail and kept nowhere."""
    text = (
        f"{handle} proposes that you share something of your home's energy data with it.\n\n"
        "Nothing is shared by this mail. Look at what is proposed, in words, before you agree or leave it:\n\n"
        f"{_way('Look at it', 'invitation', secret, link_base)}"
        "You need an account here for that. The code counts once. If you do not know who that is, do nothing.\n"
    )
    return Mail(to, "You are invited to share energy data", text)


def _way(what: str, page: str, secret: str, link_base: str) -> str:
    # After the '#': no server's log ever holds it.
    link = f"{what} here: {link_base}/{page}#{secret}\n\n" if link_base else ""
    return f"{link}The code is: {secret}\n\n"
