-- The ledger's batches on Citus: the definition of `ledger_batch` there. Redefined whenever this text, or that of
-- functions.sql, changes. `:schema`, `:parameters`, `:names` and `:shards` are filled in by storage.postgres.sharding.
--
-- Citus passes a whole call to the node that has the bucket, but would plan each of its statements there again, which
-- takes several times as long as the statement itself. So each bucket has its own copy of the function in
-- functions.sql, whose statements name the bucket's shards, and this function calls it.
--
-- The lock makes that safe. It is the lock that Citus takes for each writer to a shard, until the writer commits (5 is
-- ShareLock). Before Citus moves or splits a shard, it locks that shard and those colocated with it exclusively, on
-- every node. (A write through Citus would take it too, and cost as much as half of a small batch.) If the bucket has
-- moved to another node meanwhile, the batch is sent again and goes there.
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
