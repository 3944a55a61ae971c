"""What a month may cost, and who hears of it."""

from aws_cdk import aws_budgets as budgets
from constructs import Construct

from deploy.config import Config

TOLD_AT_PERCENT = (("ACTUAL", 50), ("ACTUAL", 80), ("FORECASTED", 100), ("ACTUAL", 100))


class Budget(Construct):
    """Of the whole account: it has nothing but this environment."""

    def __init__(self, scope: Construct, id: str, *, config: Config) -> None:
        super().__init__(scope, id)
        budgets.CfnBudget(
            self,
            "Month",
            budget=budgets.CfnBudget.BudgetDataProperty(
                budget_name=config.stack_name("month"),
                budget_type="COST",
                time_unit="MONTHLY",
                budget_limit=budgets.CfnBudget.SpendProperty(amount=config.size.budget_usd, unit="USD"),
            ),
            notifications_with_subscribers=[
                budgets.CfnBudget.NotificationWithSubscribersProperty(
                    notification=budgets.CfnBudget.NotificationProperty(
                        notification_type=kind, comparison_operator="GREATER_THAN", threshold=percent, threshold_type="PERCENTAGE"
                    ),
                    subscribers=[budgets.CfnBudget.SubscriberProperty(subscription_type="EMAIL", address=config.email)],
                )
                for kind, percent in TOLD_AT_PERCENT
            ],
        )
