-- Citus: where each table is placed. `farebox migrate --citus` executes this after the schema and the functions, one
-- statement at a time, each in its own transaction; tables that are already distributed are skipped, so it may run
-- again. By hand:
-- psql -v buckets=16 -f distribute.sql

-- Tables of accounts: by bucket, all rows of a bucket on one node. As many shards as there are buckets, and the numbers
-- of the buckets are such that each has a shard to itself (storage.buckets).
SELECT create_distributed_table('balances', 'bucket', shard_count => :buckets);
SELECT create_distributed_table('transfers', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('lots', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('holds', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('budgets', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('app_holds', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('lanes', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('gateways', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('routes', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('route_versions', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('route_deployments', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('model_aliases', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('policies', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('dlp_profiles', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('datasets', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('evaluations', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('secrets', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('provider_configs', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('last_uses', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('custom_providers', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('custom_costs', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('cached_responses', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('cache_leftovers', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('cache_totals', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('calls', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('what_ifs', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('kept_objects', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('long_calls', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('corrected_calls', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('log_destinations', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('export_states', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('usage_hours', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('transfer_days', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('transfer_marks', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('usage_values', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('usage_marks', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('log_totals', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('billing_profiles', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('cards', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('top_up_rules', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('top_ups', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('top_up_attempts', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('refunds', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('disputes', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('documents', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('notices', 'bucket', colocate_with => 'balances');
SELECT create_distributed_table('deliveries', 'bucket', colocate_with => 'balances');

-- Directory and configuration: a copy on every node. Read far more often than written; some are joined with the tables
-- of accounts; and these tables enforce what must be unique across accounts.
SELECT create_reference_table('accounts');
SELECT create_reference_table('access_tokens');
SELECT create_reference_table('users');
SELECT create_reference_table('memberships');
SELECT create_reference_table('members');
SELECT create_reference_table('providers');
SELECT create_reference_table('provider_keys');
SELECT create_reference_table('prices');
SELECT create_reference_table('price_supplements');
SELECT create_reference_table('markups');
SELECT create_reference_table('installation');
SELECT create_reference_table('customers');
SELECT create_reference_table('payments');
SELECT create_reference_table('tax_rates');
SELECT create_reference_table('webhook_endpoints');
SELECT create_reference_table('custom_domains');
SELECT create_reference_table('document_numbers');
SELECT create_reference_table('refund_names');

-- On the coordinator alone, and known to Citus: a transaction that writes both to them and to rows of an account uses
-- two-phase commit. With other tables of the coordinator it would not: if the coordinator failed at that moment, its
-- rows could be lost while the account's rows stay.
SELECT citus_add_local_table_to_metadata('config_version');
SELECT citus_add_local_table_to_metadata('operator_acts');
SELECT citus_add_local_table_to_metadata('operator_acts_head');

-- On the coordinator alone: written often, never joined with the tables of accounts, and either written again anyway or
-- not about an account.
-- local: config_changes, cache_sum, series, leases, instances, rate_counts, sessions, passkeys, sign_in_attempts, processor_events, findings, operator_alarms, rerates, provider_bills, operator_reports

-- The ledger's batches go to the node that has their bucket and are executed there as a whole; the functions they call
-- are on all nodes.
SELECT create_distributed_function(oid::regprocedure) FROM pg_proc p
    WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'ledger\_%' AND proname <> 'ledger_batch'
    AND NOT EXISTS (SELECT 1 FROM pg_dist_object d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid);
SELECT create_distributed_function(oid::regprocedure, 'p_bucket', colocate_with => 'balances') FROM pg_proc p
    WHERE pronamespace = current_schema()::regnamespace AND proname = 'ledger_batch'
    AND NOT EXISTS (SELECT 1 FROM pg_dist_object d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid
        AND d.distribution_argument_index IS NOT NULL);
