"""Both versions in one engine (R-13): apart from each other, but over one key set."""

from __future__ import annotations

import asyncio
from pathlib import Path

from policy_engine.sdk.testing import load_policy, policy_class, request, run_async
from policy_jwt.testing import AUDIENCE, ISSUER, Authority, JwksServer, jwk, serve, token


def test_both_versions_in_one_process_share_one_fetch(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    here = Path(__file__).parent
    with serve(JwksServer(jwk("one")), authority.server_context()) as server:
        jwks = {"url": server.url, "ca_file": authority.ca_file, "request_wait": "20s"}
        basic = {"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": jwks}
        chains = [
            load_policy(here / "v1_0_0", basic),
            load_policy(here / "v2_0_0", {**basic, "required_scopes": ["a"]}),
        ]
        server.delay = 0.2

        async def main() -> list[int]:
            ask = request(headers={"authorization": f"Bearer {token(scope='a')}"})
            return [one.status for one in await asyncio.gather(*(run_async(chain, ask) for chain in chains * 10))]

        assert asyncio.run(main()) == [200] * 20
        assert server.requests == 1
    assert policy_class(here / "v1_0_0") is not policy_class(here / "v2_0_0")
