"""The bare signing rate of joserfc on one core: python -m bench.signing ALGORITHM SECONDS."""

import sys
import warnings
from time import perf_counter

from joserfc import jws

from bench.service import key
from bench.sets import jti, payload
from eventpoll.sets.signed import REGISTRY


def main(algorithm: str, seconds: float) -> None:
    """Sign SETs of 1 KB with a key that is kept; print how many in a second."""
    signer, text = key(algorithm), payload(jti(1))
    header = {"alg": algorithm, "typ": "secevent+jwt", "kid": "bench-1"}
    warnings.simplefilter("ignore")  # EdDSA has a new name in RFC 9864
    signed = 0
    start = perf_counter()
    while (elapsed := perf_counter() - start) < seconds:
        jws.serialize_compact(header, text, signer, registry=REGISTRY)
        signed += 1
    print(signed / elapsed)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
