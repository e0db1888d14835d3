"""What an owner settles beside grants, within one transaction: keeping, household, restriction, objection."""

from collections.abc import Collection

from telemetry.errors import InputError, PartyUnknown
from telemetry.model.identity import new_key
from telemetry.model.sharing import Keeping, MemberRight, SharingPurpose
from telemetry.privacy.keys import Purpose, Sealer
from telemetry.store.settling import Settling, recipient_of

MAX_NAME_LENGTH = 500


class Household(Settling):
    """An owner's own affairs."""

    async def set_keeping(self, owner_key: int, keeping: Keeping) -> None:
        """What may be stored of the owner from now on. Unchanged settings leave no trace."""
        await self.hold(owner_key)
        row = await self._connection.fetchrow(self._sql["keeping"], owner_key)
        if row is not None and Keeping.model_validate_json(row["settings"]) == keeping:
            return
        version = 1 if row is None else row["version"] + 1
        await self._connection.execute(self._sql["add_keeping"], owner_key, version, keeping.model_dump_json())
        self.note("keeping.set", owner_key, None)

    async def add_member(self, owner_key: int, name: str, rights: Collection[MemberRight]) -> int:
        """The key of a new member of the household, whose name is sealed to the owner's key."""
        if not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
            raise InputError(f"a member's name has 1 to {MAX_NAME_LENGTH} printable characters")
        held = await self.hold(owner_key)
        member_key = new_key()
        sealed = Sealer(held.public_key).seal(name.encode(), purpose=Purpose.MEMBER_NAME, subject_key=member_key)
        await self._connection.execute(self._sql["add_member"], member_key, owner_key, sorted(rights))
        await self._connection.execute(self._sql["seal_member"], owner_key, member_key, sealed)
        self.note("member.add", owner_key, member_key)
        return member_key

    async def set_member(self, owner_key: int, member_key: int, rights: Collection[MemberRight]) -> None:
        """Give a member these rights and no others. Raises PartyUnknown for one that is unknown or removed."""
        await self.hold(owner_key)
        if await self._connection.fetchval(self._sql["set_member"], owner_key, member_key, sorted(rights)) is None:
            raise PartyUnknown("the member is unknown or removed", remedy="`telemetry member list OWNER`")
        self.note("member.set", owner_key, member_key)

    async def remove_member(self, owner_key: int, member_key: int) -> None:
        """End a member's rights and delete the name. Raises PartyUnknown for one that is unknown or removed."""
        await self.hold(owner_key)
        if await self._connection.fetchval(self._sql["remove_member"], owner_key, member_key) is None:
            raise PartyUnknown("the member is unknown or removed", remedy="`telemetry member list OWNER`")
        await self._connection.execute(self._sql["forget_member"], owner_key, member_key)
        self.note("member.remove", owner_key, member_key)

    async def restrict(self, owner_key: int) -> None:
        """Begin a restriction (GDPR Art. 18): from now on the owner alone sees anything."""
        await self.hold(owner_key)
        if await self._connection.fetchval(self._sql["restrict"], owner_key) is None:
            raise PartyUnknown("a restriction is in force already", remedy="`telemetry restriction lift OWNER` ends it")
        self.note("restriction.begin", owner_key, None)

    async def lift(self, owner_key: int) -> None:
        """End the restriction. What was measured meanwhile stays unseen by recipients."""
        await self.hold(owner_key)
        if await self._connection.fetchval(self._sql["lift"], owner_key) is None:
            raise PartyUnknown("no restriction is in force", remedy="`telemetry restriction list OWNER`")
        self.note("restriction.lift", owner_key, None)

    async def make_objection(self, owner_key: int, purpose: SharingPurpose, recipient_key: int | None = None) -> None:
        """Object (GDPR Art. 21) to a purpose, for one recipient or all: no grant for it counts any more."""
        await self.hold(owner_key)
        if recipient_key is not None:
            await recipient_of(self._connection, recipient_key)
        made = await self._connection.fetchval(self._sql["object"], owner_key, purpose.value, recipient_key)
        if made is None:
            raise PartyUnknown("this objection stands already", remedy="`telemetry objection list OWNER`")
        self.note("objection.make", owner_key, recipient_key)

    async def withdraw_objection(
        self, owner_key: int, purpose: SharingPurpose, recipient_key: int | None = None
    ) -> None:
        """End an objection, as narrow as it was made: grants for the purpose count again."""
        await self.hold(owner_key)
        ended = await self._connection.fetchval(self._sql["stop_objecting"], owner_key, purpose.value, recipient_key)
        if ended is None:
            raise PartyUnknown("no such objection stands", remedy="`telemetry objection list OWNER`")
        self.note("objection.withdraw", owner_key, recipient_key)
