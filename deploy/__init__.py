"""GamePulse on AWS, as a CDK app. docs/deploy.md leads from an empty account to a running service."""
