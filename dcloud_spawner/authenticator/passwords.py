"""What a name and a password must look like, and how a password is kept.

argon2id with the parameters of RFC 9106's second recommendation (3 passes, 64 MiB, 4 lanes),
which are argon2-cffi's own. Hashing takes some 50 ms of a core: it belongs in a thread,
behind :class:`~dcloud_spawner.authenticator.gate.HashGate`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from dcloud_spawner.errors import InvalidChoice

NAME_PATTERN = r"\A[a-z0-9][a-z0-9._-]{0,62}\Z"
_NAME = re.compile(NAME_PATTERN)

PASSWORD_MAX_LENGTH = 256
"""Characters. Longer ones are refused before anything is computed from them."""

_COMMON_TEXT = """
password password1 password12 password123 password1234 password12345 password123456 passw0rd
passw0rd1 passw0rd123 p@ssword p@ssw0rd p@ssw0rd1 p@ssw0rd123 passwort passwort123 motdepasse
contrasena mypassword mypassword1 newpassword newpassword1 yourpassword 12345678 123456789
1234567890 12345678910 123456789012 0123456789 0987654321 987654321 1234512345 1122334455
1111122222 1234554321 123123123 123123123123 12341234 1234123412 1qaz2wsx 1qaz2wsx3edc 1q2w3e4r
1q2w3e4r5t 1q2w3e4r5t6y qazwsxedc qazwsxedcrfv zaq12wsx qwertyui qwertyuiop qwertyuiop123
qwerty12 qwerty123 qwerty1234 qwerty12345 qwerty123456 qwertz123 qwertzuiop azertyuiop azerty123
asdfghjkl asdfghjkl123 asdf1234 asdfasdf zxcvbnm123 zxcvbnm1234 abcd1234 abcdefgh abcdefghij
abc123456 abc1234567 abcdefg123 a123456789 a1b2c3d4 a1b2c3d4e5 iloveyou iloveyou1 iloveyou123
iloveyou12 letmein123 letmein1234 letmeinnow welcome1 welcome123 welcome1234 welcome2024
welcome2025 welcome2026 changeme changeme1 changeme123 changeme1234 changeit123 adminadmin
admin123 admin1234 admin12345 admin123456 administrator administrator1 rootroot rootroot123
rootpassword superuser superuser1 superman123 batman12345 football1 football12 football123
baseball1 baseball123 basketball basketball1 sunshine1 sunshine123 princess1 princess123
monkey12345 dragon12345 trustno1 whatever1 whatever123 computer1 computer123 internet123
default123 secret1234 secretsecret testtest testtest1 test123456 test1234567 testpassword
temporary temporary1 guestguest guest12345 useruser user123456 jupyter123 jupyterhub jupyterhub1
jupyterhub123 notebook123 dcloud1234 dclouddcloud nvidia1234 nvidianvidia pytorch123 tensorflow
tensorflow1 tensorflow123 correcthorsebatterystaple january2026 february2026 summer2024
summer2025 summer2026 winter2024 winter2025 winter2026 spring2026 autumn2026
"""
COMMON = frozenset(_COMMON_TEXT.split())
"""Those that guessing programs try first and that pass the shortest length there is."""

_hasher = PasswordHasher(type=Type.ID)


def normalise_name(name: str) -> str:
    """The one spelling under which a name is kept: no blanks around it, lower case.

    Other alphabets are left as they are, so that :func:`check_name` refuses them: a letter that
    merely looks like an ASCII one must not become another person's name by lower-casing.
    """
    stripped = name.strip()
    return stripped.lower() if stripped.isascii() else stripped


def check_name(name: str) -> str:
    """The normalised name; raises InvalidChoice for one that no account can have."""
    normal = normalise_name(name)
    if not _NAME.match(normal):
        raise InvalidChoice(
            "Name: 1 to 63 characters, small letters a to z, digits, dot, dash or underscore; "
            "the first one is a letter or a digit.",
            field="username",
        )
    return normal


def _prepared(password: str) -> str:
    # The same password typed on two keyboards may arrive as different code points.
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, *, name: str, min_length: int) -> None:
    """Raise InvalidChoice with the rule that a new password breaks."""
    if len(password) > PASSWORD_MAX_LENGTH:
        raise _refused(f"Password: at most {PASSWORD_MAX_LENGTH} characters.")
    prepared = _prepared(password)
    try:
        prepared.encode()
    except UnicodeEncodeError:
        raise _refused("Password: it holds characters that cannot be kept.") from None
    if len(prepared) < min_length:
        raise _refused(f"Password: at least {min_length} characters.")
    plain = prepared.casefold()
    bare = plain.strip("0123456789!?.,;:_-+*#@$%&/ ")
    if name and name in {plain, plain[::-1], bare, bare[::-1]}:
        raise _refused("Password: it must not be the name, nor the name with figures around it.")
    if plain in COMMON or len(set(plain)) < 4:
        raise _refused("Password: this is one of the first that guessing programs try.")


def _refused(message: str) -> InvalidChoice:
    return InvalidChoice(message, hint="A few unrelated words make a good one.", field="password")


def hash_password(password: str) -> str:
    """argon2id hash with its parameters and salt. Blocks for some 50 ms."""
    return _hasher.hash(_prepared(password))


def verify_password(stored: str, password: str) -> bool:
    """Whether the password is the one of ``stored``; the same work is done for an empty ``stored``.

    So an unknown name answers as slowly as a wrong password. Blocks for some 50 ms.
    """
    if len(password) > PASSWORD_MAX_LENGTH:
        stored, password = "", ""
    try:
        _hasher.verify(stored or nobody(), _prepared(password))
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
    return bool(stored)


def needs_rehash(stored: str) -> bool:
    """Whether the hash was made with weaker parameters than today's."""
    return _hasher.check_needs_rehash(stored)


@cache
def nobody() -> str:
    """What the password of an unknown name is compared with. Call it once before the first sign-in,
    so that the first unknown name does not take longer."""
    return hash_password("nobody has this one")
