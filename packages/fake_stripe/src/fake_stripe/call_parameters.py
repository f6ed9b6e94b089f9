"""The top-level parameters that each call accepts: any other is rejected, as by the real API.

The names are those of the official Python client, and `payment_method_types`, which older API versions accept.
"""

_ALLOWED = {
    "customers.create": """
        address balance business_name cash_balance description email individual_name invoice_prefix
        invoice_settings metadata name next_invoice_sequence payment_method phone preferred_locales shipping
        source tax tax_exempt tax_id_data test_clock validate
    """,
    "customers.update": """
        address balance business_name cash_balance default_source description email individual_name
        invoice_prefix invoice_settings metadata name next_invoice_sequence phone preferred_locales shipping
        source tax tax_exempt validate
    """,
    "customers.list": "created email test_clock",
    "tax_ids.create": "type value",
    "billing.meters.create": """
        customer_mapping default_aggregation display_name event_name event_time_window value_settings
    """,
    "billing.meters.list": "status",
    "billing.event_summaries.list": "customer end_time start_time value_grouping_window",
    "billing.meter_events.create": "event_name identifier payload timestamp",
    "customer_balance_transactions.create": "amount currency description metadata",
    "payment_methods.create": """
        allow_redisplay billing_details card customer link metadata payment_method radar_options sepa_debit type
    """,
    "payment_methods.update": "allow_redisplay billing_details card metadata",
    "payment_methods.attach": "customer customer_account",
    "payment_methods.list": "allow_redisplay customer customer_account type",
    "customers.payment_methods": "allow_redisplay type",
    "setup_intents.create": """
        payment_method_types
        allowed_payment_method_types attach_to_self automatic_payment_methods confirm confirmation_token
        customer customer_account description excluded_payment_method_types flow_directions mandate_data
        metadata on_behalf_of payment_method payment_method_configuration payment_method_data
        payment_method_options return_url single_use usage use_stripe_sdk
    """,
    "setup_intents.update": """
        payment_method_types
        allowed_payment_method_types attach_to_self customer customer_account description
        excluded_payment_method_types flow_directions metadata payment_method payment_method_configuration
        payment_method_data payment_method_options
    """,
    "setup_intents.confirm": """
        allowed_payment_method_types confirmation_token mandate_data payment_method payment_method_data
        payment_method_options return_url use_stripe_sdk
    """,
    "setup_intents.cancel": "cancellation_reason",
    "setup_intents.list": "attach_to_self created customer customer_account payment_method",
    "payment_intents.create": """
        payment_method_types
        allowed_payment_method_types amount amount_details application_fee_amount automatic_payment_methods
        capture_method confirm confirmation_method confirmation_token currency customer customer_account
        description error_on_requires_action excluded_payment_method_types hooks mandate mandate_data metadata
        off_session on_behalf_of payment_details payment_method payment_method_configuration payment_method_data
        payment_method_options radar_options receipt_email return_url setup_future_usage shipping
        statement_descriptor statement_descriptor_suffix transfer_data transfer_group use_stripe_sdk
    """,
    "payment_intents.update": """
        payment_method_types
        allowed_payment_method_types amount amount_details application_fee_amount capture_method currency
        customer customer_account description excluded_payment_method_types hooks metadata payment_details
        payment_method payment_method_configuration payment_method_data payment_method_options receipt_email
        setup_future_usage shipping statement_descriptor statement_descriptor_suffix transfer_data
        transfer_group
    """,
    "payment_intents.confirm": """
        payment_method_types
        allowed_payment_method_types amount_details amount_to_confirm capture_method confirmation_token
        error_on_requires_action excluded_payment_method_types hooks mandate mandate_data off_session
        payment_details payment_method payment_method_data payment_method_options radar_options receipt_email
        return_url setup_future_usage shipping use_stripe_sdk
    """,
    "payment_intents.capture": """
        amount_details amount_to_capture application_fee_amount final_capture hooks metadata payment_details
        statement_descriptor statement_descriptor_suffix transfer_data
    """,
    "payment_intents.cancel": "cancellation_reason",
    "payment_intents.list": "created customer customer_account",
    "charges.capture": """
        amount application_fee application_fee_amount receipt_email statement_descriptor
        statement_descriptor_suffix transfer_data transfer_group
    """,
    "charges.update": "customer description fraud_details metadata receipt_email shipping transfer_group",
    "charges.list": "created customer payment_intent transfer_group",
    "refunds.create": """
        amount charge currency customer instructions_email metadata origin payment_intent reason
        refund_application_fee reverse_transfer
    """,
    "refunds.update": "metadata",
    "refunds.list": "charge created payment_intent",
    "disputes.update": "evidence intended_submission_method metadata submit",
    "disputes.list": "charge created payment_intent",
    "invoiceitems.create": """
        amount currency customer customer_account description discountable discounts invoice metadata period
        price_data pricing quantity quantity_decimal subscription tax_behavior tax_code tax_rates
        unit_amount_decimal
    """,
    "invoiceitems.update": """
        amount description discountable discounts invoicing_rules metadata period price_data pricing quantity
        quantity_decimal tax_behavior tax_code tax_rates unit_amount_decimal
    """,
    "invoiceitems.list": "created customer customer_account invoice pending",
    "invoices.create": """
        account_tax_ids application_fee_amount auto_advance automatic_tax automatically_finalizes_at
        collection_method currency custom_fields customer customer_account days_until_due default_payment_method
        default_source default_tax_rates description discounts due_date effective_at footer from_invoice issuer
        metadata number on_behalf_of payment_settings pending_invoice_items_behavior rendering shipping_cost
        shipping_details statement_descriptor subscription transfer_data
    """,
    "invoices.update": """
        account_tax_ids application_fee_amount auto_advance automatic_tax automatically_finalizes_at
        collection_method custom_fields days_until_due default_payment_method default_source default_tax_rates
        description discounts due_date effective_at footer issuer metadata number on_behalf_of payment_settings
        rendering shipping_cost shipping_details statement_descriptor transfer_data
    """,
    "invoices.list": "collection_method created customer customer_account due_date status subscription",
    "invoices.finalize": "auto_advance",
    "invoices.pay": "forgive mandate off_session paid_out_of_band payment_method source",
    "invoices.send": "",
    "invoices.void": "",
    "invoices.add_lines": "invoice_metadata lines",
    "invoices.mark_uncollectible": "",
    "invoice_payments.list": "created invoice payment status",
    "credit_notes.create": """
        amount credit_amount effective_at email_type invoice lines memo metadata out_of_band_amount reason
        refund_amount refunds shipping_cost
    """,
    "credit_notes.update": "memo metadata",
    "credit_notes.list": "created customer customer_account invoice",
    "checkout.sessions.create": """
        payment_method_types
        adaptive_pricing after_expiration allow_promotion_codes allowed_payment_method_types automatic_tax
        billing_address_collection branding_settings cancel_url client_reference_id consent_collection currency
        custom_fields custom_text customer customer_account customer_creation customer_email customer_update
        discounts excluded_payment_method_types expires_at integration_identifier invoice_creation line_items
        locale managed_payments metadata mode name_collection optional_items origin_context payment_intent_data
        payment_method_collection payment_method_configuration payment_method_data payment_method_options
        permissions phone_number_collection redirect_on_completion return_url saved_payment_method_options
        setup_intent_data shipping_address_collection shipping_options submit_type subscription_data success_url
        tax_id_collection ui_mode wallet_options
    """,
    "checkout.sessions.update": "collected_information line_items metadata payment_intent_data shipping_options",
    "checkout.sessions.list": """
        created customer customer_account customer_details payment_intent payment_link status subscription
    """,
    "billing_portal.sessions.create": """
        after_expiration configuration customer customer_account flow_data locale on_behalf_of return_url
    """,
    "customer_sessions.create": "components customer customer_account",
    "events.list": "created delivery_success type types",
    "balance_transactions.list": "created currency payout source type",
    "webhook_endpoints.create": "api_version connect description enabled_events metadata url",
    "webhook_endpoints.update": "description disabled enabled_events metadata url",
    "products.create": """
        active default_price_data description id images marketing_features metadata name package_dimensions
        shippable statement_descriptor tax_code tax_details type unit_label url
    """,
    "products.update": """
        active default_price description images marketing_features metadata name package_dimensions shippable
        statement_descriptor tax_code tax_details unit_label url
    """,
    "products.list": "active created ids shippable type url",
    "prices.create": """
        active billing_scheme currency currency_options custom_unit_amount lookup_key metadata nickname product
        product_data recurring tax_behavior tiers tiers_mode transfer_lookup_key transform_quantity unit_amount
        unit_amount_decimal
    """,
    "prices.update": "active currency_options lookup_key metadata nickname tax_behavior transfer_lookup_key",
    "prices.list": "active created currency lookup_keys product recurring type",
    "tax_rates.create": """
        active country description display_name inclusive jurisdiction metadata percentage state tax_type
    """,
    "tax_rates.update": "active country description display_name jurisdiction metadata state tax_type",
    "tax_rates.list": "active created inclusive",
    "coupons.create": """
        amount_off applies_to currency currency_options duration duration_in_months id max_redemptions metadata
        name percent_off redeem_by
    """,
    "coupons.update": "currency_options metadata name",
    "coupons.list": "created",
    "test_clocks.create": "customer frozen_time name",
    "test_clocks.advance": "frozen_time",
    "setup_attempts.list": "created setup_intent",
}

_SETS = {call: frozenset(names.split()) for call, names in _ALLOWED.items()}


def parameters_of(call: str) -> frozenset[str] | None:
    """The allowed parameters of a call; None if it is not in the table: it then accepts any."""
    return _SETS.get(call)
