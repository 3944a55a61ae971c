"""`python -m deploy.app`: synthesises the stacks of one environment, without an account. Only here is the environment read."""

import json
import os
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from aws_cdk import Acknowledgment, App, Environment, Stack, Tags, Validations

from deploy.config import EDGE_REGION, NAME, REGION, SIZES, Config
from deploy.stacks import DataStack, EdgeStack, ImagesStack, JobsStack, NetworkStack, OperationsStack, ServicesStack

CONTEXT = json.loads(Path(__file__).with_name("cdk.json").read_text())["context"]


def read_config(environment: Mapping[str, str] = os.environ) -> Config:
    """From variables. Raises ValueError, naming what is wrong."""
    size = environment.get("SIZE", "small")
    if size not in SIZES:
        raise ValueError(f"SIZE is {size!r}, and must be one of {', '.join(SIZES)}")
    names = ("ENV", "AWS_ACCOUNT", "DOMAIN", "HOSTED_ZONE_ID", "VERSION", "EMAIL", "REPOSITORY")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    env, account, domain, zone, version, email, repository = (environment[name] for name in names)
    return Config(
        environment=env,  # type: ignore[arg-type]  # Config checks it
        account=account,
        domain=domain,
        hosted_zone_id=zone,
        version=version,
        email=email,
        repository=repository,
        size=SIZES[size],
    )


def build(config: Config, outdir: str | None = None) -> App:
    """All stacks of one environment, not yet synthesised."""
    app = App(context=CONTEXT, outdir=outdir, analytics_reporting=False)
    home = Environment(account=config.account, region=REGION)
    name = config.stack_name
    images = ImagesStack(app, name("images"), env=home)
    network = NetworkStack(app, name("network"), config=config, env=home)
    data = DataStack(app, name("data"), config=config, network=network, env=home)
    jobs = JobsStack(app, name("jobs"), config=config, network=network, data=data, env=home)
    services = ServicesStack(app, name("services"), config=config, network=network, data=data, jobs=jobs, env=home)
    edge = EdgeStack(app, name("edge"), config=config, env=Environment(account=config.account, region=EDGE_REGION))
    operations = OperationsStack(app, name("operations"), config=config, data=data, jobs=jobs, services=services, env=home)
    order: list[Stack] = [images, network, data, jobs, services, edge, operations]
    for earlier, later in pairwise(order):
        later.add_stack_dependency(earlier)
    # The zones are the requirements'. What else is not acknowledged is an error.
    Validations.of(network).acknowledge(Acknowledgment(id="CloudFormation-Validate::W3010", reason="the requirements' zones"))
    for key, value in {"application": NAME, "environment": config.environment}.items():
        Tags.of(app).add(key, value)
    return app


if __name__ == "__main__":
    try:
        build(read_config(), outdir=sys.argv[1] if len(sys.argv) > 1 else "cdk.out").synth()
    except ValueError as error:
        sys.exit(f"The deployment is not described: {error}")
