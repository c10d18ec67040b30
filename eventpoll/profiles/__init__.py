"""The ways of speaking, one file each: a profile reads a request, writes an answer or a refusal.

May use: web, delivery, sets, store, errors.
"""

from collections.abc import Sequence

from eventpoll.profiles.obie import Obie
from eventpoll.profiles.rfc8936 import RFC8936, Profile
from eventpoll.profiles.wso2 import WSO2_BASES, Wso2


def all_profiles(wso2_empty_status: int = 200) -> list[Profile]:
    """Every profile that polls are answered in, a path each."""
    return [
        RFC8936,
        Obie("obie_v3", "/open-banking/v3.1/events", 3),
        Obie("obie_v4", "/open-banking/v4.0/events", 4),
        *(Wso2(f"wso2_{n}", f"{base}/events", n, wso2_empty_status) for n, base in WSO2_BASES.items()),
    ]


def of_path(profiles: Sequence[Profile], path: str) -> Profile:
    """The profile in which a refusal on `path` is told, our path or near it; RFC 8936's for all that is not a poll."""
    for profile in profiles:
        if path.startswith(profile.path.removesuffix("events")) and profile is not RFC8936:
            return profile
    return RFC8936
