"""`python -m deploy.app`: synthesises the stacks of one environment, without an account. Only here is the environment read."""

import json
import os
import sys
from itertools import pairwise
from pathlib import Path

from aws_cdk import Acknowledgment, App, Environment, Stack, Tags, Validations
from cdk_nag import AwsSolutionsChecks
from constructs import IConstruct

from deploy.acknowledged import Left, left
from deploy.config import EDGE_REGION, NAME, REGION, Config, read_config
from deploy.stacks import DataStack, EdgeStack, ImagesStack, JobsStack, NetworkStack, OperationsStack, ServicesStack

CONTEXT = json.loads(Path(__file__).with_name("cdk.json").read_text())["context"]


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
    operations = OperationsStack(
        app, name("operations"), config=config, network=network, data=data, jobs=jobs, services=services, env=home
    )
    order: list[Stack] = [images, network, data, jobs, services, edge, operations]
    for earlier, later in pairwise(order):
        later.add_stack_dependency(earlier)
    # The zones are the requirements'. What else is not acknowledged is an error.
    Validations.of(network).acknowledge(Acknowledgment(id="CloudFormation-Validate::W3010", reason="the requirements' zones"))
    for key, value in {"application": NAME, "environment": config.environment}.items():
        Tags.of(app).add(key, value)
    check(app, left(config))
    return app


def check(app: App, accepted: list[Left]) -> None:
    """From now on `app.synth()` raises RuntimeError when cdk-nag finds what is not accepted."""
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    for one in accepted:
        at: IConstruct = app
        for name in (one.stack, *one.path.split("/")):
            at = at.node.find_child(name)
        Validations.of(at).acknowledge(Acknowledgment(id=f"AwsSolutions::AwsSolutions-{one.rule}", reason=one.why))


if __name__ == "__main__":
    try:
        build(read_config(os.environ), outdir=sys.argv[1] if len(sys.argv) > 1 else "cdk.out").synth()
    except ValueError as error:
        sys.exit(f"The deployment is not described: {error}")
