"""The fields of the objects, so that those without a value are null, as the API sends them.

The names are those that the official Python client declares; tests compare responses with it.
"""

from typing import Any

from fake_stripe.errors import Json

_FIELDS = {
    "invoice": """
        account_country account_name account_tax_ids amount_due amount_overpaid amount_paid amount_remaining
        amount_shipping application attempt_count attempted auto_advance automatic_tax
        automatically_finalizes_at billing_reason collection_method created currency custom_fields customer
        customer_address customer_email customer_name customer_phone customer_shipping customer_tax_exempt
        customer_tax_ids default_payment_method default_source default_tax_rates description discounts due_date
        effective_at ending_balance footer from_invoice hosted_invoice_url id invoice_pdf issuer
        last_finalization_error latest_revision lines livemode metadata next_payment_attempt number object
        on_behalf_of parent payment_settings period_end period_start post_payment_credit_notes_amount
        pre_payment_credit_notes_amount receipt_number rendering shipping_cost shipping_details starting_balance
        statement_descriptor status status_transitions subtotal subtotal_excluding_tax test_clock total
        total_discount_amounts total_excluding_tax total_pretax_credit_amounts total_taxes webhooks_delivered_at
    """,
    "charge": """
        amount amount_captured amount_refunded application application_fee application_fee_amount
        balance_transaction billing_details calculated_statement_descriptor captured created currency customer
        description disputed failure_balance_transaction failure_code failure_message fraud_details id livemode
        metadata object on_behalf_of outcome paid payment_intent payment_method payment_method_details
        receipt_email receipt_number receipt_url refunded review shipping source_transfer statement_descriptor
        statement_descriptor_suffix status transfer_data transfer_group
    """,
    "payment_intent": """
        amount amount_capturable amount_details amount_received application application_fee_amount
        automatic_payment_methods canceled_at cancellation_reason capture_method client_secret
        confirmation_method created currency customer description id last_payment_error latest_charge livemode
        metadata next_action object on_behalf_of payment_method payment_method_configuration_details
        payment_method_options payment_method_types processing receipt_email review setup_future_usage shipping
        statement_descriptor statement_descriptor_suffix status transfer_data transfer_group
    """,
    "dispute": """
        amount balance_transactions charge created currency enhanced_eligibility_types evidence evidence_details
        id intended_submission_method is_charge_refundable livemode metadata network_reason_code object
        payment_intent payment_method_details reason status
    """,
    "refund": """
        amount balance_transaction charge created currency customer description destination_details
        failure_balance_transaction failure_reason id metadata next_action object payment_intent payment_method
        pending_reason reason receipt_number source_transfer_reversal status transfer_reversal
    """,
    "line_item": """
        amount currency description discount_amounts discountable discounts id invoice livemode metadata object
        parent period pretax_credit_amounts pricing quantity quantity_decimal subscription subtotal taxes
    """,
    "invoiceitem": """
        amount currency customer date description discountable discounts frozen_fields id invoice
        invoicing_rules livemode metadata net_amount object parent period pricing proration proration_details
        quantity quantity_decimal tax_rates test_clock
    """,
    "invoice_payment": """
        amount_paid amount_requested created currency id invoice is_default livemode object payment status
        status_transitions
    """,
    "setup_intent": """
        application automatic_payment_methods cancellation_reason client_secret created customer description id
        last_setup_error latest_attempt livemode mandate metadata next_action object on_behalf_of payment_method
        payment_method_configuration_details payment_method_options payment_method_types single_use_mandate
        status usage
    """,
    "customer": """
        address balance created currency default_source delinquent description discount email id invoice_prefix
        invoice_settings livemode metadata name next_invoice_sequence object phone preferred_locales shipping
        tax_exempt test_clock
    """,
    "credit_note": """
        amount amount_shipping created currency customer customer_balance_transaction discount_amount
        discount_amounts effective_at id invoice lines livemode memo metadata number object out_of_band_amount
        pdf post_payment_amount pre_payment_amount pretax_credit_amounts reason shipping_cost status subtotal
        subtotal_excluding_tax total total_excluding_tax total_taxes type voided_at
    """,
    "billing.meter": """
        created customer_mapping default_aggregation display_name event_name event_time_window id livemode object
        status status_transitions updated value_settings
    """,
    "billing.meter_event": "created event_name id identifier livemode object payload timestamp",
    "balance_transaction": """
        amount available_on balance_type created currency description exchange_rate fee fee_details id net
        object reporting_category source status type
    """,
    "price": """
        active billing_scheme created currency custom_unit_amount id livemode lookup_key metadata nickname
        object product recurring tax_behavior tiers_mode transform_quantity type unit_amount unit_amount_decimal
    """,
    "product": """
        active created default_price description id images livemode marketing_features metadata name object
        package_dimensions shippable statement_descriptor tax_code tax_details type unit_label updated url
    """,
    "tax_rate": """
        active country created description display_name effective_percentage flat_amount id inclusive
        jurisdiction jurisdiction_level livemode metadata object percentage rate_type state tax_type
    """,
    "coupon": """
        amount_off applies_to created currency duration duration_in_months id livemode max_redemptions metadata
        name object percent_off redeem_by times_redeemed valid
    """,
    "tax_id": """
        country created customer id livemode object owner type value verification
    """,
    "customer_balance_transaction": """
        amount checkout_session created credit_note currency customer description ending_balance id invoice
        livemode metadata object type
    """,
    "setup_attempt": """
        application created customer id livemode object on_behalf_of payment_method payment_method_details
        setup_error setup_intent status usage
    """,
    "webhook_endpoint": """
        api_version application created description enabled_events id livemode metadata object status url
    """,
    "checkout.session": """
        adaptive_pricing after_expiration allow_promotion_codes amount_subtotal amount_total automatic_tax
        billing_address_collection branding_settings cancel_url client_reference_id client_secret
        collected_information consent consent_collection created currency currency_conversion custom_fields
        custom_text customer customer_creation customer_details customer_email discounts expires_at id invoice
        invoice_creation livemode locale metadata mode name_collection object optional_items origin_context
        payment_intent payment_link payment_method_collection payment_method_configuration_details
        payment_method_options payment_method_types payment_status permissions phone_number_collection
        recovered_from redirect_on_completion return_url saved_payment_method_options setup_intent
        shipping_address_collection shipping_cost shipping_options status submit_type subscription success_url
        tax_id_collection total_details ui_mode url wallet_options
    """,
    "billing_portal.session": """
        after_expiration configuration created customer flow id livemode locale object on_behalf_of return_url
        url
    """,
}

_MODELESS = frozenset({"refund", "balance_transaction"})
_NAMES = {kind: tuple(names.split()) for kind, names in _FIELDS.items()}


def stripe_object(kind: str, **values: Any) -> Json:
    """An object of this kind: the values given, null for every other field; not in live mode."""
    made: Json = dict.fromkeys(_NAMES.get(kind, ()))
    made.update(object=kind, livemode=False)
    if kind in _MODELESS:
        del made["livemode"]
    made.update(values)
    return made
