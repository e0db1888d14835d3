"""The pure parts of telling who asks: secrets, sealing, passwords, one-time codes."""

from datetime import UTC, date, datetime

import pytest

from telemetry.access.passwords import MAX_BYTES, Passwords, check_password
from telemetry.access.sealing import AccessKeys, Sealed
from telemetry.access.secret_text import csrf_token, new_secret, new_token, secret_hash, token_hash
from telemetry.access.totp import (
    code_at,
    is_totp,
    matching_step,
    new_recovery_codes,
    plain_recovery_code,
    provisioning_uri,
    secret_text,
)
from telemetry.errors import AccessBusy, KeystoreError, PasswordUnfit, UnsealError
from tests.support.access import FAST

KEYS = AccessKeys(bytes(32))
OTHERS = AccessKeys(b"o" * 32)
RFC_SECRET = b"12345678901234567890"  # RFC 6238, appendix B


class TestSecrets:
    def test_hold_256_bits_in_43_characters(self):
        assert len({new_secret() for _ in range(100)}) == 100
        assert {len(new_secret()) for _ in range(100)} == {43}
        assert token_hash(new_token()) is not None

    def test_a_tokens_hash_is_that_of_its_secret(self):
        token = new_token()
        assert token_hash(token) == secret_hash(token.removeprefix("tlm_"))
        assert token_hash(token.removeprefix("tlm_")) is None

    @pytest.mark.parametrize("text", ["", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "\n", "ä" * 43])
    def test_what_cannot_be_one_has_no_hash(self, text):
        assert secret_hash(text) is None
        assert token_hash("tlm_" + text) is None

    def test_a_csrf_token_is_told_by_key_and_session(self):
        tokens = {csrf_token(key, secret) for key in (b"a" * 32, b"b" * 32) for secret in ("A" * 43, "B" * 43)}
        assert len(tokens) == 4
        assert {len(token) for token in tokens} == {43}


class TestSealing:
    def test_a_value_opens_for_its_account_and_kind_only(self):
        sealed = KEYS.seal(b"a@example.test", kind=Sealed.EMAIL, account_key=-5)
        assert KEYS.open(sealed, kind=Sealed.EMAIL, account_key=-5) == b"a@example.test"
        for keys, kind, account in ((KEYS, Sealed.EMAIL, 5), (KEYS, Sealed.NAME, -5), (OTHERS, Sealed.EMAIL, -5)):
            with pytest.raises(UnsealError):
                keys.open(sealed, kind=kind, account_key=account)

    def test_nothing_of_a_sealed_value_may_change(self):
        sealed = KEYS.seal(b"value", kind=Sealed.TOTP, account_key=1)
        for at in range(1, len(sealed)):
            changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            with pytest.raises(UnsealError):
                KEYS.open(changed, kind=Sealed.TOTP, account_key=1)
        for cut in (b"", sealed[:12], sealed[:-1]):
            with pytest.raises(UnsealError):
                KEYS.open(cut, kind=Sealed.TOTP, account_key=1)

    def test_its_length_is_hidden_and_its_bytes_differ_each_time(self):
        sealed = [KEYS.seal(b"x" * length, kind=Sealed.EMAIL, account_key=1) for length in (0, 1, 63)]
        assert len({len(one) for one in sealed}) == 1
        assert KEYS.open(sealed[0], kind=Sealed.EMAIL, account_key=1) == b""
        assert len({KEYS.seal(b"x", kind=Sealed.EMAIL, account_key=1) for _ in range(10)}) == 10

    def test_a_value_that_ends_in_padding_stays_whole(self):
        value = b"\x80\0\0"
        assert KEYS.open(KEYS.seal(value, kind=Sealed.TOTP, account_key=1), kind=Sealed.TOTP, account_key=1) == value

    def test_an_address_is_found_in_any_case_and_by_its_key_only(self):
        assert KEYS.email_blind("A.B@Example.Test") == KEYS.email_blind("a.b@example.test")
        assert KEYS.email_blind("a.b@example.test") != KEYS.email_blind("ab@example.test")
        assert KEYS.email_blind("a@example.test") != OTHERS.email_blind("a@example.test")

    def test_places_of_two_days_or_two_keys_cannot_be_joined(self):
        places = {keys.place("192.0.2.1", half) for keys in (KEYS, OTHERS) for half in (b"a" * 32, b"b" * 32)}
        assert len(places) == 4

    def test_a_device_cookie_is_its_addresss_and_lasts_180_days(self):
        blind, today = KEYS.email_blind("a@example.test"), date(2026, 11, 26)
        cookie = KEYS.device_cookie(blind, today)
        device = KEYS.device(cookie, blind, today)
        assert device is not None
        assert KEYS.device(cookie, blind, date.fromordinal(today.toordinal() + 180)) == device
        assert KEYS.device(cookie, blind, date.fromordinal(today.toordinal() + 181)) is None
        assert KEYS.device(cookie, blind, date.fromordinal(today.toordinal() - 1)) is None
        assert KEYS.device(cookie, KEYS.email_blind("b@example.test"), today) is None
        assert OTHERS.device(cookie, blind, today) is None

    def test_keys_do_not_show_themselves(self):
        assert repr(KEYS) == "<AccessKeys>"
        with pytest.raises(KeystoreError):
            AccessKeys(b"short")


class TestPasswords:
    @pytest.mark.parametrize(
        "password",
        [
            "elevenchars",
            "x" * (MAX_BYTES + 1),
            "ä" * (MAX_BYTES // 2 + 1),
            "longname@example.test",
            "LongName@Example.Test",
            "password1234",
            "PasswortPasswort",
            "123456789012",
            "aaaaaaaaaaaa",
            "abcabcabcabc",
            "passwordpassword",
            "!!changeme!!2026",
            "qwertyuiop12",
        ],
    )
    def test_what_is_unfit_is_refused_without_being_quoted(self, password):
        with pytest.raises(PasswordUnfit) as refused:
            check_password(password, "longname@example.test")
        assert password not in str(refused.value)

    @pytest.mark.parametrize(
        "password", ["three words and more", "x7#kQ2!mZp9v", "zwölf Bären", "漢字漢字漢字漢字漢字漢字仮名"]
    )
    def test_what_is_long_enough_is_taken_whatever_it_is_made_of(self, password):
        check_password(password + " i", "longname@example.test")

    def test_the_part_before_the_at_is_the_address_too(self):
        with pytest.raises(PasswordUnfit):
            check_password("a-very-long-name", "a-very-long-name@example.test")

    async def test_a_hash_is_argon2id_with_a_salt_of_its_own(self):
        passwords = Passwords(FAST)
        first, second = await passwords.hash("three words"), await passwords.hash("three words")
        assert first.startswith("$argon2id$")
        assert first != second
        assert await passwords.verify(first, "three words")
        assert not await passwords.verify(first, "three wordz")
        assert not await passwords.verify("no hash", "three words")
        assert not await passwords.verify(passwords.nobodys, "three words")

    async def test_by_default_it_is_as_rfc_9106_recommends_for_64_mib(self):
        assert (await Passwords().hash("three words")).startswith("$argon2id$v=19$m=65536,t=3,p=4$")

    async def test_a_hash_of_other_parameters_is_outdated(self):
        passwords = Passwords(FAST)
        assert not passwords.is_outdated(await passwords.hash("three words"))
        assert Passwords().is_outdated(passwords.nobodys)

    async def test_too_many_at_once_are_turned_away(self):
        passwords = Passwords(FAST)
        passwords._waiting = 32
        with pytest.raises(AccessBusy):
            await passwords.hash("three words")

    async def test_a_password_of_megabytes_is_not_hashed_whole(self):
        passwords = Passwords(FAST)
        stored = await passwords.hash("x" * (MAX_BYTES + 1))
        assert await passwords.verify(stored, "x" * 10_000_000)


class TestTotp:
    @pytest.mark.parametrize(
        ("second", "code"),
        [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
    )
    def test_codes_are_those_of_rfc_6238_appendix_b(self, second, code):
        now = datetime.fromtimestamp(second, UTC)
        assert code_at(RFC_SECRET, now) == code
        assert matching_step(RFC_SECRET, code, now) == second // 30

    @pytest.mark.parametrize(("shift_s", "accepted"), [(-60, False), (-30, True), (0, True), (30, True), (60, False)])
    def test_one_step_before_and_after_is_accepted(self, shift_s, accepted):
        code = code_at(RFC_SECRET, datetime.fromtimestamp(1_000_000_000 + shift_s, UTC))
        step = matching_step(RFC_SECRET, code, datetime.fromtimestamp(1_000_000_000, UTC))
        assert step == ((1_000_000_000 + shift_s) // 30 if accepted else None)

    @pytest.mark.parametrize("code", ["", "28708", "2870822", "28708a", "２８７０８２", "abcd-efgh-ijkl-mnop"])
    def test_what_is_no_code_matches_nothing(self, code):
        assert not is_totp(code)
        assert matching_step(RFC_SECRET, code, datetime.fromtimestamp(59, UTC)) is None

    def test_a_code_may_be_typed_in_groups(self):
        assert is_totp("287 082")
        assert matching_step(RFC_SECRET, "287 082", datetime.fromtimestamp(59, UTC)) == 1

    def test_the_secret_goes_into_an_authenticator(self):
        uri = provisioning_uri(RFC_SECRET, "a@example.test")
        assert uri.startswith("otpauth://totp/")
        assert f"secret={secret_text(RFC_SECRET)}" in uri

    def test_recovery_codes_are_read_however_they_are_typed(self):
        code = new_recovery_codes()[0]
        plain = code.replace("-", "")
        assert len(plain) == 16
        assert {plain_recovery_code(text) for text in (code, plain.upper(), code.replace("-", " "))} == {plain}
        for wrong in ("", plain[:-1], plain + "a", "1" * 16, "287082"):
            assert plain_recovery_code(wrong) is None
