// Whether a batch has room, which rows leave for it, and which slots those that miss get. See planner.cuh.

#include "planner.cuh"

// Whether there is room for what misses, and which lists leave for it. One block of whole warps.
//
// batch: that is planned; nearest: batches before it that are still to be planned are held; furthest: the last batch
// known; slots: S; spare: at most so many of a list are chosen beyond those that leave.
// tile_misses: (tiles,) int32. tile_starts: (tiles,) int32, overwritten: how many miss before each tile. lists: modified
// where there is room: those that leave are taken off. state: all of the batch; where there is room FILLED, too.
// cut: 0. miss_count, evict_count: (1,) int32, overwritten; no row leaves where there is no room.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) find_room(
    int batch, int nearest, int furthest, int slots, int spare, const int* __restrict__ tile_misses, int tiles,
    int* __restrict__ tile_starts, int* lists, int ring, int* state, uint64* cut, int* __restrict__ miss_count,
    int* __restrict__ evict_count) {
    __shared__ int shared[WARP];
    const int thread = threadIdx.x, threads = blockDim.x;
    const bool is_first = thread == 0;
    int missed = 0;
    for (int first = 0; first < tiles; first += threads) {
        const int tile = first + thread;
        int in_these;
        const int before = block_exclusive_scan(tile < tiles ? tile_misses[tile] : 0, shared, in_these);
        if (tile < tiles) tile_starts[tile] = missed + before;
        missed += in_these;
    }

    // Rows that are listed, in the order in which they would leave: each thread has some neighbouring lists.
    const int orders = RANKS + max(furthest - nearest + 1, 0);
    const int each = (orders + threads - 1) / threads;
    const int first_order = min(thread * each, orders), last_order = min(first_order + each, orders);
    int listed = 0, may_leave;
    for (int order = first_order; order < last_order; ++order) listed += lists[list_at(order, furthest, ring)];
    int before = block_exclusive_scan(listed, shared, may_leave);

    const int filled = state[FILLED];
    const int wanted = max(missed - (slots - filled), 0);
    const bool is_ok = wanted <= may_leave;
    const int evicted = is_ok ? wanted : 0;
    __syncthreads();
    if (is_first) {
        // Its rows have been used and are in no list.
        lists[list_of_batch(batch, ring)] = 0;
        const int fresh = max(-state[FREE], 0);
        state[HANDED_OUT] += fresh;
        state[FREE] += fresh;
        state[IS_OK] = is_ok;
        state[MISSED] = missed;
        state[EVICTED] = evicted;
        state[FIRST] = filled;
        state[TAKEN] = is_ok ? missed - evicted : 0;
        if (is_ok) state[FILLED] = filled + missed - evicted;
        state[CHOSEN] = 0;
        cut[0] = 0;
        *miss_count = missed;
        *evict_count = evicted;
        if (evicted == 0) {
            state[BOUNDARY] = NONE;
            state[UNUSED] = 0;
            state[IN_PART] = 0;
        }
    }
    if (evicted == 0) return;
    for (int order = first_order; order < last_order; ++order) {
        int* const list = &lists[list_at(order, furthest, ring)];
        const int length = *list, leave = min(max(evicted - before, 0), length);
        before += length;
        *list = length - leave;
        if (leave > 0 && before - length + leave == evicted) {
            state[BOUNDARY] = order;
            state[NEEDED] = leave;
            state[IN_PART] = length - leave > spare;
        }
        if (order == RANKS - 1) state[UNUSED] = min(before, evicted);
    }
}

// Slots are read so many a thread at once: memory is far away.
#define SLOT_ROUNDS 4
// Bins of the widest digit.
#define MOST_BINS 4096

// Of the list that is left in part: how many rows have which digit of `slot_since - cut`, among those with nothing above.
// The digit is `bits` wide, its lowest bit is `shift`. bins: (MOST_BINS,) int32, zeros before. Any grid.
extern "C" __global__ void count_since(
    const int* __restrict__ slot_list, const uint64* __restrict__ slot_since, int furthest, int ring, int shift, int bits,
    const int* __restrict__ state, const uint64* __restrict__ cut, int* bins) {
    __shared__ int counts[MOST_BINS];
    if (!state[IN_PART]) return;
    for (int bin = threadIdx.x; bin < 1 << bits; bin += blockDim.x) counts[bin] = 0;
    __syncthreads();
    const int list = list_at(state[BOUNDARY], furthest, ring), filled = state[FILLED];
    const uint64 cut_at = cut[0];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < filled; first += SLOT_ROUNDS * stride) {
        bool is_listed[SLOT_ROUNDS];
        int bins_of[SLOT_ROUNDS];
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            const int64 slot = first + round * stride + threadIdx.x;
            is_listed[round] = slot < filled && slot_list[slot] == list;
        }
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            bins_of[round] = NONE;
            if (!is_listed[round]) continue;
            // What lies below the cut wraps around and has bits above.
            const uint64 digits = (slot_since[first + round * stride + threadIdx.x] - cut_at) >> shift;
            if (digits >> bits == 0) bins_of[round] = (int)digits;
        }
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round)
            if (__any_sync(ALL_LANES, bins_of[round] != NONE)) count_lanes(counts, bins_of[round], 1);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < 1 << bits; bin += blockDim.x)
        if (counts[bin] != 0) atomicAdd(&bins[bin], counts[bin]);
}

// The digit up to which they leave: the cut moves there, and NEEDED is how many of that digit leave. bins: zeros again.
// state: NEEDED modified. One block of whole warps.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) move_cut(
    int shift, int bits, int* bins, int* state, uint64* cut) {
    __shared__ int shared[WARP];
    if (!state[IN_PART]) return;
    const int each = ((1 << bits) + (int)blockDim.x - 1) / (int)blockDim.x;
    const int first = min((int)threadIdx.x * each, 1 << bits), last = min(first + each, 1 << bits);
    const int needed = state[NEEDED];
    int in_these = 0, total;
    for (int bin = first; bin < last; ++bin) in_these += bins[bin];
    int before = block_exclusive_scan(in_these, shared, total);
    for (int bin = first; bin < last; ++bin) {
        const int count = bins[bin];
        bins[bin] = 0;
        if (before < needed && needed <= before + count) {
            state[NEEDED] = needed - before;
            cut[0] += (uint64)bin << shift;
        }
        before += count;
    }
}

// Write down the rows that leave and, of the list that is left in part, those up to `spare` beyond the cut.
//
// keys: (CHOSEN,) int64, the order of the list above the low `since_bits` bits, which are slot_since; slots: (CHOSEN,)
// int32; in no order. state: CHOSEN is how many. Any grid, blocks of whole warps.
extern "C" __global__ void choose(
    const int* __restrict__ slot_list, const uint64* __restrict__ slot_since, int furthest, int ring, int since_bits,
    int spare, const uint64* __restrict__ cut, int* state, int64* __restrict__ keys, int* __restrict__ slots) {
    __shared__ int shared[WARP];
    __shared__ int block_start;
    const int boundary = state[BOUNDARY], in_part = state[IN_PART], filled = state[FILLED];
    if (boundary == NONE) return;
    const uint64 end = cut[0] + (uint64)spare;
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < filled; first += SLOT_ROUNDS * stride) {
        // The order of each slot's list, more than `boundary` where the row stays.
        int orders[SLOT_ROUNDS];
        uint64 since[SLOT_ROUNDS];
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            const int64 slot = first + round * stride + threadIdx.x;
            const int list = slot < filled ? slot_list[slot] : NONE;
            orders[round] = list == NONE ? boundary + 1 : order_of(list, furthest, ring);
        }
        int leaving = 0;
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            since[round] = orders[round] <= boundary ? slot_since[first + round * stride + threadIdx.x] : 0;
            if (orders[round] == boundary && in_part && since[round] >= end) orders[round] = boundary + 1;
            leaving += orders[round] <= boundary;
        }
        // One atomic for the block: there may be a victim in every warp.
        int total;
        const int before = block_exclusive_scan(leaving, shared, total);
        if (total == 0) continue;
        // The scan's barriers keep this from being written before all have read what was there.
        if (threadIdx.x == 0) block_start = atomicAdd(&state[CHOSEN], total);
        __syncthreads();
        int place = block_start + before;
#pragma unroll
        for (int round = 0; round < SLOT_ROUNDS; ++round) {
            if (orders[round] > boundary) continue;
            keys[place] = (int64)((uint64)orders[round] << since_bits | since[round]);
            slots[place] = (int)(first + round * stride + threadIdx.x);
            ++place;
        }
    }
}

// Take the slots of the first EVICTED chosen rows away, and put the nodes of the first UNUSED of them onto the stack of
// free ones; `assign` counts them.
//
// victims: (EVICTED,) int32, slots in the order in which they leave. evict_rows, evict_slots: (EVICTED,), overwritten.
// Modified: all that is not const. One thread a row, or more of them.
extern "C" __global__ void evict(
    const int* __restrict__ victims, int64* cells, int shift, int* nodes, int64* node_rows,
    int* __restrict__ free_nodes, const int* __restrict__ slot_node, int* __restrict__ slot_list, int* state,
    int64* __restrict__ evict_rows, int* __restrict__ evict_slots) {
    const int evicted = state[EVICTED], unused = state[UNUSED], free = state[FREE];
    const int64 stride = (int64)gridDim.x * blockDim.x;
    for (int64 first = (int64)blockIdx.x * blockDim.x; first < evicted; first += stride) {
        const int64 e = first + threadIdx.x;
        bool one_less = false;
        if (e < evicted) {
            const int slot = victims[e], node = slot_node[slot];
            const int64 row = node_rows[node];
            evict_rows[e] = row;
            evict_slots[e] = slot;
            slot_list[slot] = NONE;
            nodes[(int64)node * NODE_FIELDS + SLOT] = NONE;
            nodes[(int64)node * NODE_FIELDS + LIST] = NONE;
            if (e < unused) {
                one_less = hit_map_erase(cells, shift, row);
                node_rows[node] = NONE;
                free_nodes[free + e] = node;
            }
        }
        warp_reserve(&state[PLACES], one_less, -1);
    }
}

// Give a slot to each row that misses: the empty ones first, then those that were left. Nothing where there is no room.
//
// tile_starts: of find_room. unique_slots: (unique,) int32, NONE where a row misses; the slot of each afterwards.
// miss_rows, miss_slots: (MISSED,), overwritten. nodes, slot_node: modified; state: FREE. Grid: tiles of scan.cuh.
extern "C" __global__ void __launch_bounds__(TILE_THREADS) assign(
    int64 start, int unique, const int* __restrict__ tile_starts, const int* __restrict__ evict_slots,
    int* __restrict__ nodes, const int64* __restrict__ node_rows, const int* __restrict__ window, int window_size,
    int* __restrict__ slot_node, int* state, int* unique_slots, int64* __restrict__ miss_rows,
    int* __restrict__ miss_slots) {
    __shared__ int shared[WARP];
    if (!state[IS_OK]) return;
    if (blockIdx.x == 0 && threadIdx.x == 0) state[FREE] += state[UNUSED];
    const int first = state[FIRST], taken = state[TAKEN];
    int places[TILE_ROUNDS];
    kept_places(
        unique, tile_starts[blockIdx.x], [=](int item) { return unique_slots[item] == NONE; }, shared, places);
#pragma unroll
    for (int round = 0; round < TILE_ROUNDS; ++round) {
        const int place = places[round];
        if (place < 0) continue;
        const unsigned item = tile_item(round);
        const int node = window[2 * ((start + item) & (window_size - 1))];
        const int slot = place < taken ? first + place : evict_slots[place - taken];
        nodes[(int64)node * NODE_FIELDS + SLOT] = slot;
        slot_node[slot] = node;
        unique_slots[item] = slot;
        miss_rows[place] = node_rows[node];
        miss_slots[place] = slot;
    }
}
