/** What an answer must contain before it is believed: the kind of thing that was asked for, and about the right key. */

type Fields = Readonly<Record<string, unknown>>;
export type IsMeant = (answer: Fields) => boolean;
type WantedKey = { readonly tenant_id?: string | null | undefined; readonly name?: string; readonly id?: string };

export function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** `key` has that name or id, and belongs to that tenant, or to the null tenant if none is given. */
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

/** Exactly as many items as were sent, since only their order tells which is which. */
export function hasItems(count: number): IsMeant {
  return ({ items }) => Array.isArray(items) && items.length === count && items.every(isFields);
}

/** A page whose entries all have the `wanted` fields. A page that leads to itself is refused: it would be requested forever. */
export function isPage(list: string, cursor: string | undefined, wanted: Fields = {}): IsMeant {
  return ({ [list]: things, next_cursor: next }) =>
    Array.isArray(things) &&
    things.every((thing) => isOf(wanted, thing)) &&
    (next === null || (typeof next === 'string' && next !== cursor));
}

function isOf(wanted: Fields, thing: unknown): boolean {
  return isFields(thing) && Object.entries(wanted).every(([field, value]) => thing[field] === value);
}
