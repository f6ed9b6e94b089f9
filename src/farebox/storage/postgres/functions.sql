-- The ledger's batches, and other functions that only PostgreSQL has. Redefined whenever this text changes.

-- Balances and lots change all the time, and no index contains the columns that change: with free space in their pages,
-- updates leave the indexes untouched.
ALTER TABLE balances SET (fillfactor = 50);
ALTER TABLE lots SET (fillfactor = 50);

-- ledger.spending.window_start: the beginning of a limit's window, in milliseconds.
CREATE OR REPLACE FUNCTION ledger_window_start(duration text, strategy text, at bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    hour CONSTANT bigint := 3600000;
    day CONSTANT bigint := 24 * hour;
    week CONSTANT bigint := 7 * day;
    start bigint;
BEGIN
    IF strategy = 'sliding' THEN
        start := at - CASE duration WHEN 'daily' THEN day WHEN 'weekly' THEN week ELSE 30 * day END;
        RETURN start - (start % hour + hour) % hour;
    ELSIF duration = 'daily' THEN
        RETURN at - (at % day + day) % day;
    ELSIF duration = 'weekly' THEN  -- the first Monday was the fourth day after the epoch
        RETURN at - ((at - 4 * day) % week + week) % week;
    END IF;
    RETURN 1000 * extract(epoch FROM date_trunc('month', timestamp 'epoch' + at * interval '1 millisecond'))::bigint;
END $$;

DO $$
DECLARE old regprocedure;
BEGIN
    -- If the parameters differ, CREATE OR REPLACE would keep an older release's function beside this one.
    FOR old IN SELECT oid::regprocedure FROM pg_proc
        WHERE proname LIKE 'ledger\_batch%' AND pronamespace = current_schema()::regnamespace
    LOOP
        EXECUTE 'DROP FUNCTION ' || old;
    END LOOP;
END $$;

-- One batch of one bucket: first the ends of holds, then new holds, each in order of arrival. See ledger.lanes.
--
-- It does the common cases of ledger.posting and nothing else. An item that needs more is left untouched and answered
-- `slow`: the caller then sends it through ledger.posting. So all rules are in one place, and this function must give
-- exactly the same result or `slow`.
--
-- p_accounts is sorted and names each account once; e_account and h_account are places in it, from 1. Ends: e_kind is 1
-- settle, 2 release, 3 a call's row without a hold. c_gateway is null where no call's row is to be written; the row's
-- log id is the hold's id. An array that would be empty, or contain only nulls, is null instead, because every array
-- costs time on both sides, however short it is. With p_careful, existing holds and calls are looked for first; without
-- it, one that exists makes the whole batch fail with a violated unique key.
--
-- p_instance and p_epoch say whose batch it is (table `lanes`). If the table does not have that pair, the sender was
-- declared dead or has reconnected since: its ends are carried out; its holds are not, and are answered `fenced`. The
-- row is locked until the batch has committed, so that a process that deletes it knows that no batch of that sender
-- follows.
--
-- Budgets (ledger.budgets): b_… lists each scope that a new hold of the batch counts in, with one window and one limit;
-- u_hold and u_budget say which holds count in which scopes, in the order of the holds; h_reserve is what a hold
-- reserves in each of its budgets, h_budgets the text for its row. All are null if no new hold counts in a budget. The
-- budgets of an ended hold are on its row; e_counts is the amount that counts, if it is not the charge.
--
-- Returns four numbers for each item, the ends first: outcome (0 slow, 1 done, 2 refused, 3 held elsewhere, 4 limited,
-- 5 unknown, 6 fenced), posted, held, owed; then five for each refusal because of a limit: the number of the hold, the
-- limit, what was spent, and for a budget its place among the hold's budgets, from 1, and what is held in it; for the
-- account's spending limit these two are 0.
--
-- A batch is a constant number of statements, and each has one possible plan, whatever the statistics say: rows are
-- looked up by LATERAL subqueries that lock, sort or limit, executed once per key, and changed as conflicts of an
-- INSERT. (With `= ANY` of many keys, or UPDATE … FROM, a plan made while the tables were small would later read the
-- whole bucket.) An account's rows are changed only while its balance is locked, and balances are locked in order of
-- their id: batches and jobs cannot deadlock. Must be called outside any transaction block: Citus then runs all of it
-- on the node that has the bucket, and commits there.
CREATE FUNCTION ledger_batch(
    p_bucket int, p_careful boolean, p_instance text, p_epoch bigint, p_accounts text[],
    e_account int[], e_kind int[], e_hold text[], e_amount bigint[], e_at bigint[], e_counted bigint[], e_note text[],
    e_counts bigint[],
    c_gateway text[], c_provider text[], c_model text[], c_success int[], c_status int[], c_duration bigint[],
    c_tokens_in bigint[], c_tokens_out bigint[], c_cost bigint[], c_detail text[], c_receipt text[], c_logged int[],
    c_request bytea[], c_response bytea[],
    h_account int[], h_hold text[], h_amount bigint[], h_at bigint[], h_counted bigint[], h_expires bigint[],
    h_owner text[], h_reserve bigint[], h_budgets text[],
    b_account int[], b_scope text[], b_start bigint[], b_since bigint[], b_limit bigint[], b_ends bigint[],
    u_hold int[], u_budget int[]
) RETURNS bigint[] LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    ends CONSTANT int := coalesce(cardinality(e_account), 0);
    new_holds CONSTANT int := coalesce(cardinality(h_account), 0);
    accounts CONSTANT int := cardinality(p_accounts);
    answer bigint[] := array_fill(0::bigint, ARRAY[4 * (ends + new_holds)]);
    limits bigint[];
    -- Arrays begin as null, which costs nothing; elements that were never set are null too.
    -- For each account, by its place in p_accounts. Null if there is no such account.
    a_posted bigint[];
    a_held bigint[];
    a_owed bigint[];
    a_version bigint[];
    a_floor bigint[];        -- a charge that takes `posted` below this activates a trigger (ledger.triggers)
    a_armed bigint[];        -- not null: a refusal would request an auto top-up
    a_limit bigint[];
    a_window bigint[];       -- start of the window that is counted
    a_until bigint[];        -- its end, if it is not that of the UTC calendar
    a_spent bigint[];
    a_duration text[];
    a_strategy text[];
    a_changed boolean[];
    a_due bigint[];          -- earliest expiry of its unspent lots
    a_lot int[];   -- place of the lot to draw on next
    -- Unspent lots, in spending order within each account.
    l_account int[];
    l_id text[];
    l_book text[];
    l_left bigint[];
    l_drawn boolean[];
    -- Transfers to write.
    t_end int[];             -- place of the end whose charge it is
    t_part int[];            -- number of the transfer within the charge, from 1
    t_version bigint[];
    t_lot int[];             -- place of the lot
    t_amount bigint[];
    e_kept bigint[];         -- amount of the hold, or -1 minus that if it counts in budgets; null if it is not open
    e_ended boolean[] := array_fill(false, ARRAY[ends]);
    e_row boolean[] := array_fill(false, ARRAY[ends]);  -- whether to write its call's row; full: unnest goes by position
    rows_new int := 0;
    charges int := 0;
    h_new boolean[] := array_fill(false, ARRAY[new_holds]);
    holds_new int := 0;
    any_ended boolean := false;
    any_counted boolean := false;    -- whether any ended hold counts in budgets
    -- For each scope, by its place in b_scope.
    b_spent bigint[];
    b_held bigint[];
    b_added bigint[];        -- what new holds reserve; null if none does
    any_added boolean := false;
    u int := 1;              -- place in u_hold
    over int;                -- place among the hold's budgets of the one that refuses it; 0: none
    over_limited boolean;
    limited boolean;
    asked_limit bigint;
    asked_spent bigint;
    asked_held bigint;
    fenced boolean := false;
    r record;
    i int;
    j int;
    k int := 0;
    n int := 0;                      -- place in `answer`
    part int;
    kept bigint;
    rest bigint;
    taken bigint;
    amount_ bigint;
    outcome int;
BEGIN
    IF new_holds > 0 THEN
        PERFORM FROM lanes WHERE bucket = p_bucket AND instance_id = p_instance AND epoch = p_epoch FOR SHARE;
        fenced := NOT FOUND;
    END IF;

    FOR r IN SELECT q.place, b.* FROM unnest(p_accounts) WITH ORDINALITY AS q(account_id, place)
        CROSS JOIN LATERAL (SELECT * FROM balances
            WHERE bucket = p_bucket AND account_id = q.account_id FOR UPDATE) b
    LOOP
        j := r.place;
        a_posted[j] := r.posted;
        a_held[j] := r.held;
        a_owed[j] := r.owed;
        a_version[j] := r.version;
        IF r.low_below IS NOT NULL AND (r.posted >= r.low_below OR r.low_told = 0) THEN
            a_floor[j] := r.low_below;
        END IF;
        IF r.top_up_below IS NOT NULL THEN
            a_floor[j] := greatest(r.top_up_below, a_floor[j]);
            IF r.posted < r.top_up_below THEN
                a_armed[j] := 1;
            END IF;
        END IF;
        a_spent[j] := r.limit_spent;
        IF r.limit_amount IS NOT NULL THEN
            a_limit[j] := r.limit_amount;
            a_window[j] := r.limit_from;
            a_until[j] := r.limit_until;
            a_duration[j] := r.limit_duration;
            a_strategy[j] := r.limit_strategy;
        END IF;
    END LOOP;

    -- In the order of ledger.lots.SPENDING_ORDER.
    FOR r IN SELECT q.place, l.* FROM unnest(p_accounts) WITH ORDINALITY AS q(account_id, place)
        CROSS JOIN LATERAL (SELECT lot_id, book, remaining, expires_at FROM lots
            WHERE bucket = p_bucket AND account_id = q.account_id AND spent = 0
            ORDER BY priority, book = 'credit', expires_at IS NULL, expires_at, created_at, lot_id) l
    LOOP
        k := k + 1;
        j := r.place;
        IF a_lot[j] IS NULL THEN
            a_lot[j] := k;
        END IF;
        l_account[k] := j;
        l_id[k] := r.lot_id;
        l_book[k] := r.book;
        l_left[k] := r.remaining;
        l_drawn[k] := false;
        IF r.expires_at < a_due[j] OR a_due[j] IS NULL THEN
            a_due[j] := r.expires_at;
        END IF;
    END LOOP;

    IF ends > 0 THEN
        -- The state is an expression, so that the hold is found by its key, not by the index of open holds.
        e_kept := ARRAY(SELECT h.amount FROM unnest(e_account, e_hold) AS q(account, hold_id)
            LEFT JOIN LATERAL (SELECT CASE WHEN budgets IS NULL THEN amount ELSE -1 - amount END AS amount FROM holds
                WHERE bucket = p_bucket AND account_id = p_accounts[q.account] AND hold_id = q.hold_id
                AND state || '' = 'open' LIMIT 1) h ON true);
    END IF;

    FOR i IN 1 .. ends LOOP
        j := e_account[i];
        IF a_posted[j] IS NULL THEN
            answer[n + 1] := 5;
        ELSIF p_careful AND c_gateway[i] IS NOT NULL AND EXISTS (
            SELECT FROM calls WHERE bucket = p_bucket AND account_id = p_accounts[j] AND log_id = e_hold[i])
        THEN
            IF e_kind[i] = 3 THEN
                answer[n + 1] := 1;
            END IF;
        ELSE
            kept := NULL;
            taken := CASE WHEN e_kept[i] < 0 THEN -1 - e_kept[i] ELSE e_kept[i] END;
            IF e_kind[i] = 1 THEN
                amount_ := e_amount[i];
                IF amount_ <= taken
                    AND (amount_ = 0 OR a_floor[j] IS NULL OR a_posted[j] - amount_ >= a_floor[j])
                THEN
                    kept := taken;
                END IF;
                IF kept IS NOT NULL AND amount_ > 0 THEN
                    rest := amount_;
                    part := 1;
                    k := a_lot[j];
                    LOOP
                        IF l_account[k] IS DISTINCT FROM j THEN
                            RAISE 'the lots of % hold less than the % to draw', p_accounts[j], amount_;
                        END IF;
                        taken := least(rest, l_left[k]);
                        l_left[k] := l_left[k] - taken;
                        l_drawn[k] := true;
                        a_version[j] := a_version[j] + 1;
                        t_end := t_end || i;
                        t_part := t_part || part;
                        t_version := t_version || a_version[j];
                        t_lot := t_lot || k;
                        t_amount := t_amount || taken;
                        rest := rest - taken;
                        part := part + 1;
                        IF l_left[k] = 0 THEN
                            k := k + 1;
                        END IF;
                        EXIT WHEN rest = 0;
                    END LOOP;
                    a_lot[j] := k;
                    a_posted[j] := a_posted[j] - amount_;
                    IF a_window[j] <= e_counted[i] THEN
                        a_spent[j] := a_spent[j] + amount_;
                    END IF;
                    charges := charges + 1;
                END IF;
            ELSIF e_kind[i] = 2 THEN
                kept := taken;
            ELSE
                kept := 0;
            END IF;
            IF kept IS NOT NULL THEN
                IF e_kind[i] <> 3 THEN
                    a_held[j] := a_held[j] - kept;
                    a_changed[j] := true;
                    e_ended[i] := true;
                    any_ended := true;
                    IF e_kept[i] < 0 THEN
                        any_counted := true;
                    END IF;
                END IF;
                answer[n + 1] := 1;
                answer[n + 2] := a_posted[j];
                answer[n + 3] := a_held[j];
                answer[n + 4] := a_owed[j];
                IF c_gateway[i] IS NOT NULL THEN
                    e_row[i] := true;
                    rows_new := rows_new + 1;
                END IF;
            END IF;
        END IF;
        n := n + 4;
    END LOOP;

    IF any_counted THEN
        -- A slot that was deleted is not created again.
        INSERT INTO budgets AS b (bucket, account_id, scope, start, spent, held, ends_at)
        SELECT p_bucket, q.account_id, q.scope, q.start, sum(q.more_spent), -sum(q.less_held), 0 FROM (
            SELECT p_accounts[e.account] AS account_id, s.slot ->> 0 AS scope, (s.slot ->> 1)::bigint AS start,
                CASE e.kind WHEN 1 THEN coalesce(e.counts, e.charge) ELSE 0 END AS more_spent, h.counted AS less_held
            FROM unnest(e_ended, e_kept, e_account, e_kind, e_hold, e_amount, e_counts)
                AS e(ended, was_kept, account, kind, hold_id, charge, counts)
            CROSS JOIN LATERAL (SELECT counted, budgets FROM holds WHERE bucket = p_bucket
                AND account_id = p_accounts[e.account] AND hold_id = e.hold_id LIMIT 1) h
            CROSS JOIN LATERAL json_array_elements(h.budgets::json) AS s(slot)
            WHERE e.ended AND e.was_kept < 0
        ) q
        CROSS JOIN LATERAL (SELECT FROM budgets WHERE bucket = p_bucket AND account_id = q.account_id
            AND scope = q.scope AND start = q.start LIMIT 1) there
        GROUP BY 2, 3, 4
        ON CONFLICT (bucket, account_id, scope, start) DO UPDATE SET spent = b.spent + excluded.spent,
            held = b.held + excluded.held;
    END IF;

    IF b_scope IS NOT NULL THEN
        SELECT array_agg(c.spent ORDER BY q.place), array_agg(c.held ORDER BY q.place) INTO b_spent, b_held
        FROM unnest(b_account, b_scope, b_since) WITH ORDINALITY AS q(account, scope, since, place)
        CROSS JOIN LATERAL (SELECT coalesce(sum(spent), 0)::bigint AS spent, coalesce(sum(held), 0)::bigint AS held
            FROM budgets WHERE bucket = p_bucket AND account_id = p_accounts[q.account] AND scope = q.scope
            AND start >= q.since) c;
        b_added := array_fill(NULL::bigint, ARRAY[cardinality(b_scope)]);
    END IF;

    FOR i IN 1 .. new_holds LOOP
        j := h_account[i];
        amount_ := h_amount[i];
        outcome := 0;
        over := 0;
        asked_limit := NULL;
        IF h_reserve[i] IS NOT NULL THEN
            part := u;
            WHILE u_hold[u] = i LOOP
                k := u_budget[u];
                taken := b_spent[k] + b_held[k] - b_limit[k];
                limited := b_spent[k] + h_reserve[i] > b_limit[k];
                IF h_reserve[i] > 0 AND taken + h_reserve[i] > 0 AND (over = 0 OR (limited AND NOT over_limited)
                    OR (limited = over_limited AND taken > rest))
                THEN
                    over := u - part + 1;
                    over_limited := limited;
                    rest := taken;
                END IF;
                u := u + 1;
            END LOOP;
        END IF;
        IF fenced THEN
            outcome := 6;
        ELSIF a_posted[j] IS NULL THEN
            outcome := 5;
        ELSIF a_due[j] <= h_at[i] OR (p_careful AND EXISTS (
            SELECT FROM holds WHERE bucket = p_bucket AND account_id = p_accounts[j] AND hold_id = h_hold[i]))
        THEN
            NULL;
        ELSIF a_limit[j] IS NULL OR amount_ = 0 THEN
            IF amount_ <= a_posted[j] - a_held[j] THEN
                outcome := 1;
            ELSE
                outcome := CASE WHEN amount_ > a_posted[j] THEN 2 ELSE 3 END;
            END IF;
        ELSIF (CASE WHEN a_until[j] IS NULL THEN
                a_window[j] = ledger_window_start(a_duration[j], a_strategy[j], h_counted[i])
            ELSE a_window[j] <= h_counted[i] AND h_counted[i] < a_until[j] END)
        THEN
            IF amount_ <= a_posted[j] - a_held[j] AND a_spent[j] + a_held[j] + amount_ <= a_limit[j] THEN
                outcome := 1;
            ELSE
                outcome := CASE WHEN a_spent[j] + amount_ > a_limit[j] THEN 4
                    WHEN amount_ > a_posted[j] THEN 2 ELSE 3 END;
                asked_limit := a_limit[j];
                asked_spent := a_spent[j];
                asked_held := 0;
            END IF;
        END IF;
        IF over > 0 AND (outcome = 1 OR (outcome IN (2, 3, 4) AND over_limited)) THEN
            outcome := CASE WHEN over_limited THEN 4 ELSE 3 END;
            k := u_budget[part + over - 1];
            asked_limit := b_limit[k];
            asked_spent := b_spent[k];
            asked_held := b_held[k];
        ELSE
            over := 0;
        END IF;
        IF asked_limit IS NOT NULL THEN
            limits := limits || ARRAY[i, asked_limit, asked_spent, over, asked_held];
        END IF;
        IF outcome = 1 AND h_reserve[i] IS NOT NULL THEN
            FOR place IN part .. u - 1 LOOP
                k := u_budget[place];
                b_held[k] := b_held[k] + h_reserve[i];
                b_added[k] := coalesce(b_added[k], 0) + h_reserve[i];
                any_added := true;
            END LOOP;
        END IF;
        IF outcome = 1 THEN
            a_held[j] := a_held[j] + amount_;
            a_changed[j] := true;
            h_new[i] := true;
            holds_new := holds_new + 1;
        ELSIF outcome IN (2, 3, 4) AND ((outcome = 2 AND a_armed[j] IS NOT NULL) OR EXISTS (
            SELECT FROM holds WHERE bucket = p_bucket AND account_id = p_accounts[j] AND hold_id = h_hold[i]))
        THEN
            outcome := 0;
        END IF;
        IF outcome <> 0 THEN
            answer[n + 1] := outcome;
            answer[n + 2] := a_posted[j];
            answer[n + 3] := a_held[j];
            answer[n + 4] := a_owed[j];
        END IF;
        n := n + 4;
    END LOOP;

    -- Rows that exist, and are locked by now, are changed as conflicts: each is looked up by its key, whatever the
    -- statistics say. (UPDATE … FROM may read all rows of the bucket instead.)
    IF holds_new > 0 OR any_ended THEN
        INSERT INTO balances (bucket, account_id, posted, held, version, limit_spent)
        SELECT p_bucket, p_accounts[q.at], a_posted[q.at], a_held[q.at], a_version[q.at], a_spent[q.at]
        FROM generate_series(1, accounts) AS q(at) WHERE a_changed[q.at]
        ON CONFLICT (bucket, account_id) DO UPDATE SET posted = excluded.posted, held = excluded.held,
            version = excluded.version, limit_spent = excluded.limit_spent;
    END IF;
    IF any_ended THEN
        INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, charge, written_off, owner, created_at,
            expires_at)
        SELECT p_bucket, p_accounts[q.account], q.hold_id, 0, 0, CASE q.kind WHEN 1 THEN 'settled' ELSE 'released' END,
            CASE q.kind WHEN 1 THEN q.charge END, CASE q.kind WHEN 1 THEN 0 END, '', 0, 0
        FROM unnest(e_ended, e_account, e_kind, e_hold, e_amount) AS q(ended, account, kind, hold_id, charge)
        WHERE q.ended
        ON CONFLICT (bucket, account_id, hold_id) DO UPDATE SET state = excluded.state, charge = excluded.charge,
            written_off = excluded.written_off;
    END IF;
    IF any_counted THEN
        INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at, counted)
        SELECT p_bucket, p_accounts[q.account], q.hold_id, 0, 0, '', '', 0, 0, coalesce(q.counts, q.charge)
        FROM unnest(e_ended, e_kept, e_account, e_kind, e_hold, e_amount, e_counts)
            AS q(ended, was_kept, account, kind, hold_id, charge, counts)
        WHERE q.ended AND q.was_kept < 0 AND q.kind = 1
        ON CONFLICT (bucket, account_id, hold_id) DO UPDATE SET counted = excluded.counted;
    END IF;
    IF charges > 0 THEN
        INSERT INTO lots (bucket, account_id, lot_id, book, amount, remaining, priority, created_at, spent)
        SELECT p_bucket, p_accounts[l_account[q.at]], l_id[q.at], '', l_left[q.at], l_left[q.at], 0, 0,
            CASE l_left[q.at] WHEN 0 THEN 1 ELSE 0 END
        FROM generate_series(1, cardinality(l_id)) AS q(at) WHERE l_drawn[q.at]
        ON CONFLICT (bucket, account_id, lot_id) DO UPDATE SET remaining = excluded.remaining,
            spent = excluded.spent;
        INSERT INTO transfers
            (bucket, account_id, version, transfer_id, kind, from_book, to_book, amount, lot_id, at, note)
        SELECT p_bucket, p_accounts[e_account[q.of]], q.version,
            'charge:' || e_hold[q.of] || CASE q.part WHEN 1 THEN '' ELSE '/' || q.part END, 'charge', l_book[q.lot],
            'revenue', q.amount, l_id[q.lot], e_at[q.of], e_note[q.of]
        FROM unnest(t_end, t_part, t_version, t_lot, t_amount) AS q(of, part, version, lot, amount);
        INSERT INTO usage_hours AS u (bucket, account_id, hour, provider, model, calls, charge, tokens_in, tokens_out)
        SELECT p_bucket, p_accounts[q.account], q.counted - (q.counted % 3600000 + 3600000) % 3600000, q.provider,
            q.model, count(*), sum(q.charge), sum(coalesce(q.tokens_in, 0)), sum(coalesce(q.tokens_out, 0))
        FROM unnest(e_account, e_kind, e_amount, e_counted, c_provider, c_model, c_tokens_in, c_tokens_out)
            WITH ORDINALITY AS q(account, kind, charge, counted, provider, model, tokens_in, tokens_out, place)
        WHERE q.kind = 1 AND q.charge > 0 AND answer[4 * q.place - 3] = 1
        GROUP BY 2, 3, 4, 5
        ON CONFLICT (bucket, account_id, hour, provider, model) DO UPDATE SET
            calls = u.calls + excluded.calls, charge = u.charge + excluded.charge,
            tokens_in = u.tokens_in + excluded.tokens_in, tokens_out = u.tokens_out + excluded.tokens_out;
    END IF;
    IF rows_new > 0 THEN
        INSERT INTO calls (bucket, account_id, log_id, gateway_id, created_at, provider, model, success, status_code,
            duration, tokens_in, tokens_out, cost, charge, detail, receipt, logged, request, response, push, meter,
            classify)
        SELECT p_bucket, p_accounts[q.account], q.log_id, q.gateway_id, q.created_at, q.provider, q.model, q.success,
            q.status_code, q.duration, q.tokens_in, q.tokens_out, q.cost, q.charge, q.detail, q.receipt, q.logged & 1,
            q.request, q.response, nullif(q.logged >> 1 & 1, 0), nullif(q.logged >> 2 & 1, 0),
            nullif(q.logged >> 3 & 1, 0)
        FROM unnest(e_row, e_account, e_hold, c_gateway, e_counted, c_provider, c_model, c_success, c_status,
                c_duration, c_tokens_in, c_tokens_out, c_cost, e_amount, c_detail, c_receipt, c_logged, c_request,
                c_response)
            AS q(written, account, log_id, gateway_id, created_at, provider, model, success, status_code,
                duration, tokens_in, tokens_out, cost, charge, detail, receipt, logged, request, response)
        WHERE q.written;
    END IF;
    IF holds_new > 0 AND NOT any_added THEN
        INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at)
        SELECT p_bucket, p_accounts[q.account], q.hold_id, q.amount, q.amount, 'open', q.owner, q.at, q.expires_at
        FROM unnest(h_new, h_account, h_hold, h_amount, h_owner, h_at, h_expires)
            AS q(written, account, hold_id, amount, owner, at, expires_at)
        WHERE q.written;
    ELSIF holds_new > 0 THEN
        INSERT INTO holds (bucket, account_id, hold_id, asked, amount, state, owner, created_at, expires_at, budgets,
            counted)
        SELECT p_bucket, p_accounts[q.account], q.hold_id, q.amount, q.amount, 'open', q.owner, q.at, q.expires_at,
            q.slots, q.reserve
        FROM unnest(h_new, h_account, h_hold, h_amount, h_owner, h_at, h_expires, h_budgets, h_reserve)
            AS q(written, account, hold_id, amount, owner, at, expires_at, slots, reserve)
        WHERE q.written;
        INSERT INTO budgets AS b (bucket, account_id, scope, start, spent, held, ends_at, most)
        SELECT p_bucket, p_accounts[q.account], q.scope, q.start, 0, q.added, q.ends_at, q.most
        FROM unnest(b_account, b_scope, b_start, b_added, b_ends, b_limit)
            AS q(account, scope, start, added, ends_at, most)
        WHERE q.added IS NOT NULL
        ON CONFLICT (bucket, account_id, scope, start) DO UPDATE SET held = b.held + excluded.held,
            most = excluded.most;
    END IF;
    RETURN answer || limits;
END $$;
