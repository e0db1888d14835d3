"""Mail goes out under TLS, to one addressee, and errors hold neither an address nor what the server said."""

import pytest

from telemetry.config import MailConfig, load_config
from telemetry.deliver.mail import Mail, Mailer
from telemetry.errors import ConfigurationError, DeliveryRefused, DeliveryUnavailable, NotConfigured
from tests.support.certificates import make_certificates
from tests.support.mail_server import PASSWORD, USER, MailServer

TO = "ada@example.invalid"
MAIL = Mail(TO, "A subject", "Some text.\nTwo lines: ä.\n")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def test_nothing_is_sent_until_a_server_is_configured():
    mailer = Mailer(MailConfig())
    assert not mailer.configured
    with pytest.raises(NotConfigured):
        await mailer.send(MAIL)


@pytest.mark.parametrize("encryption", ["none", "starttls", "tls"])
async def test_a_mail_arrives_as_written(certificates, encryption):
    async with MailServer(None if encryption == "none" else certificates, encryption) as server:
        await Mailer(server.config()).send(MAIL)
    (mail,) = server.mails
    assert (mail["To"], mail["From"], mail["Subject"]) == (TO, "service@example.invalid", "A subject")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().replace("\r\n", "\n") == MAIL.text
    assert server.envelopes == [("service@example.invalid", [TO])]


@pytest.mark.parametrize("encryption", ["starttls", "tls"])
async def test_a_password_is_read_from_its_file_and_sent_under_tls(certificates, encryption, tmp_path):
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    async with MailServer(certificates, encryption, authenticate=True) as server:
        await Mailer(server.config(username=USER, password_file=secret)).send(MAIL)
        secret.write_text("another\n")
        with pytest.raises(ConfigurationError, match="535"):
            await Mailer(server.config(username=USER, password_file=secret)).send(MAIL)
    assert len(server.mails) == 1


async def test_a_server_without_starttls_gets_no_mail():
    async with MailServer() as server:
        with pytest.raises(DeliveryUnavailable):
            await Mailer(server.config(encryption="starttls")).send(MAIL)
    assert server.mails == []


async def test_a_server_that_nobody_vouches_for_gets_no_mail(certificates):
    async with MailServer(certificates, "starttls") as server:
        with pytest.raises(DeliveryUnavailable):
            await Mailer(server.config(ca_file=None)).send(MAIL)
        with pytest.raises(DeliveryUnavailable):  # the certificate is for another name
            await Mailer(server.config(host="127.0.0.1")).send(MAIL)
    assert server.mails == []


@pytest.mark.parametrize(
    ("to", "reply", "raised"),
    [
        (TO, "451 ada@example.invalid come again", DeliveryUnavailable),
        (TO, "554 ada@example.invalid is unwanted", DeliveryRefused),
        ("nobody@example.invalid", None, DeliveryRefused),
    ],
)
async def test_what_the_server_says_is_told_as_a_code_only(to, reply, raised):
    async with MailServer(replies=[reply] if reply else []) as server:
        with pytest.raises(raised) as told:
            await Mailer(server.config()).send(Mail(to, "s", "t"))
    assert "example" not in str(told.value)
    assert told.value.__cause__ is None


@pytest.mark.parametrize(
    "to",
    [
        "",
        "nobody",
        "a@example.invalid, b@example.invalid",
        "a@example.invalid\r\nBcc: b@example.invalid",
        "ä@example.invalid",
        "@",
    ],
)
async def test_what_is_not_one_address_is_refused(to):
    async with MailServer() as server:
        with pytest.raises(DeliveryRefused) as told:
            await Mailer(server.config()).send(Mail(to, "s", "t"))
        with pytest.raises(DeliveryRefused):
            await Mailer(server.config()).send(Mail(TO, f"s\r\nBcc: {TO}", "t"))
    assert server.mails == []
    assert "example" not in str(told.value)


async def test_a_server_that_is_away_is_unavailable():
    async with MailServer() as server:
        config = server.config()
    with pytest.raises(DeliveryUnavailable):
        await Mailer(config).send(MAIL)


def test_a_mail_shows_nothing_of_itself():
    assert repr(MAIL) == "Mail()"


@pytest.mark.parametrize(
    ("section", "wrong"),
    [
        ({"host": "mail.example.invalid", "sender": "a@example.invalid", "encryption": "none"}, "loopback"),
        ({"host": "127.0.0.1"}, "mail.sender"),
        ({"username": "x"}, "needs mail.password_file"),
        ({"link_base": "http://example.invalid"}, "https"),
        ({"username": "x", "password_file": "y", "encryption": "none"}, "clear"),
    ],
)
def test_a_configuration_that_would_send_in_clear_is_refused(section, wrong):
    with pytest.raises(ConfigurationError, match=wrong):
        load_config(None, mail=section)
