-- The ledger's batches on Citus: what `ledger_batch` is there. Defined anew whenever this text, or that of functions.sql,
-- changes. `:schema`, `:parameters`, `:names` and `:shards` are filled in by storage.postgres.sharding.
--
-- Citus passes a call whole to the node that has the bucket, and would plan each statement of it there once more, which
-- takes several times what the statement does. So there is one function of functions.sql for each bucket, whose
-- statements name the bucket's shards, and this one calls it.
--
-- The lock makes that safe. It is the one that Citus takes for whoever writes to a shard, until that commits (5 is
-- ShareLock); before it moves a shard, or splits it, Citus locks that and all that lie with it exclusively, on every node.
-- (A write through Citus would take it too, and cost as much as half of a small batch.) Where the bucket has gone to
-- another node meanwhile, the batch is sent again, and goes there.
CREATE FUNCTION :schema.ledger_batch(:parameters) RETURNS bigint[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    shard bigint;
BEGIN
    shard := get_shard_id_for_distribution_column(':schema.balances', p_bucket);
    PERFORM lock_shard_metadata(5, ARRAY[shard]);
    PERFORM FROM pg_dist_placement p JOIN pg_dist_local_group l ON l.groupid = p.groupid WHERE p.shardid = shard;
    IF NOT FOUND THEN
        RAISE serialization_failure USING MESSAGE = 'the bucket ' || p_bucket || ' is on another node';
    END IF;
    CASE shard
    -- WHEN :shards THEN RETURN :schema.ledger_batch_:shards(:names);
    ELSE
        RAISE 'the shard % has no function: run farebox migrate', shard;
    END CASE;
END $$;
