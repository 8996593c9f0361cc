/** What an answer must show before it is believed: that it is of the kind, and about the thing, that was asked for. */

type Fields = Readonly<Record<string, unknown>>;
export type IsMeant = (answer: Fields) => boolean;
type WantedKey = { readonly tenant_id?: string | null | undefined; readonly name?: string; readonly id?: string };

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `key` is of that tenant, null where it is left out, and has that name or id. */
export function hasKey({ tenant_id, ...fields }: WantedKey): IsMeant {
  const wanted = { ...fields, tenant_id: tenant_id ?? null };
  return ({ key }) => isOf(wanted, key);
}

export function hasOpenedKey(wanted: WantedKey): IsMeant {
  const isMeant = hasKey(wanted);
  return (answer) => isMeant(answer) && typeof (answer.key as Fields).value === 'string';
}

export function hasText(field: string): IsMeant {
  return (answer) => typeof answer[field] === 'string';
}

/** As many items as were sent, since only their order says which is which. */
export function hasItems(count: number): IsMeant {
  return ({ items }) => Array.isArray(items) && items.length === count && items.every(isFields);
}

/** A page of things of which each is as `wanted`, and not one that leads to itself, which would be asked for again for ever. */
export function isPage(list: string, cursor: string | undefined, wanted: Fields = {}): IsMeant {
  return ({ [list]: things, next_cursor: next }) =>
    Array.isArray(things) &&
    things.every((thing) => isOf(wanted, thing)) &&
    (next === null || (typeof next === 'string' && next !== cursor));
}

function isOf(wanted: Fields, thing: unknown): boolean {
  return isFields(thing) && Object.entries(wanted).every(([field, value]) => thing[field] === value);
}
